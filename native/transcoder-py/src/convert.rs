//! Converts the field table and the settings from Python, and results to Python. btfeed/_native.pyi describes both.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use transcoder::mapped::{Mapped, RefusedRecord, TransactionSummary};
use transcoder::post::Transcoder;
use transcoder::table::{Encoding, Field, Policy, Roles, Settings, Table, UNKNOWN_CATEGORY};

use crate::PyPlan;
use crate::columns::{Buffer, Texts};

/// A row of the field table: number, name, type, presence, record field, encoding.
pub type FieldRow = (u32, String, String, String, String, String);

/// Converts a row of the field table.
pub fn field((number, name, kind, presence, record, encoding): FieldRow) -> PyResult<Field> {
    match Encoding::from_name(&encoding) {
        Some(encoding) => Ok(Field { number, name, kind, presence, record, encoding }),
        None => Err(PyValueError::new_err(format!("field {name}: no encoding is called {encoding}"))),
    }
}

/// Converts the numbers of the fields that the transcoder knows.
pub fn roles(table: &Bound<'_, PyDict>) -> PyResult<Roles> {
    Ok(Roles {
        start_time: get(table, "start_time")?,
        end_time: get(table, "end_time")?,
        duration: get(table, "duration")?,
        visit_id: get(table, "visit_id")?,
        visit: get(table, "visit")?,
    })
}

/// Converts the settings.
pub fn settings(table: &Bound<'_, PyDict>) -> PyResult<Settings> {
    let policy = |key: &str| {
        let name: String = get(table, key)?;
        Policy::from_name(&name).ok_or_else(|| PyValueError::new_err(format!("{key}: no policy is called {name}")))
    };
    Ok(Settings {
        head: get(table, "head")?,
        missing: policy("missing")?,
        unexpected: policy("unexpected")?,
        drop: get(table, "drop")?,
        hash: get(table, "hash")?,
        key: get(table, "key")?,
        mask: get(table, "mask")?,
    })
}

fn get<'py, T: for<'a> FromPyObject<'a, 'py, Error = PyErr>>(table: &Bound<'py, PyDict>, key: &str) -> PyResult<T> {
    table.as_any().get_item(key)?.extract()
}

/// Converts a mapped post, or a run of them, to (parts, ids, keys, timestamps, sizes, transactions, refused records, counts, ends).
pub fn mapped<'py>(
    py: Python<'py>,
    transcoder: &Transcoder<PyPlan>,
    mapped: Mapped<PyPlan>,
) -> PyResult<Bound<'py, PyTuple>> {
    let table = transcoder.table();
    let transactions = mapped.transactions.iter().map(|transaction| summary(py, table, transaction));
    let transactions = transactions.collect::<PyResult<Vec<_>>>()?;
    let refused = PyList::empty(py);
    for record in &mapped.refused {
        refused.append(refused_record(py, &mapped, record)?)?;
    }
    let occurrences = mapped.occurrences();
    let issues = (mapped.issues.left_out, mapped.issues.invalid_utf8);
    let counts = (occurrences, mapped.mismatches, mapped.unknown, mapped.lost, issues);
    let parts = mapped.parts.into_iter().map(|part| Py::new(py, Buffer::new(part, Arc::clone(transcoder.pool()))));
    let parts = parts.collect::<PyResult<Vec<_>>>()?;
    let ids = Texts::new(py, &parts, mapped.ids);
    let keys = Texts::new(py, &parts, mapped.keys);
    let timestamps = i64s_to_bytes(py, &mapped.timestamps)?;
    let sizes = i64s_to_bytes(py, &mapped.sizes)?;
    (parts, ids, keys, timestamps, sizes, transactions, refused, counts, mapped.ends).into_pyobject(py)
}

/// Converts to (plan, records, violations). A violation is (field, rule, number of occurrences).
fn summary<'py>(py: Python<'py>, table: &Table, transaction: &TransactionSummary<PyPlan>) -> PyResult<Bound<'py, PyTuple>> {
    let mut violations = Vec::new();
    if transaction.plan.category == UNKNOWN_CATEGORY && transaction.occurrences > 0 {
        violations.push((PyString::intern(py, "type"), "missing", transaction.occurrences));
    }
    for field in &table.fields {
        for (rule, counts) in [("missing", &transaction.missing), ("unexpected", &transaction.unexpected)] {
            let count = counts[field.number as usize];
            if count > 0 {
                violations.push((PyString::new(py, &field.name), rule, count));
            }
        }
    }
    (&transaction.plan.python, transaction.records, violations).into_pyobject(py)
}

/// Converts to (ordinal, id, key, timestamp, plan, reasons, record).
fn refused_record<'py>(py: Python<'py>, mapped: &Mapped<PyPlan>, record: &RefusedRecord) -> PyResult<Bound<'py, PyTuple>> {
    let plan = &mapped.transactions[record.transaction].plan.python;
    let reasons: Vec<_> = record.violations.iter().map(|(rule, field)| format!("{rule} {field}")).collect();
    let (id, key) = (String::from_utf8_lossy(&record.id), String::from_utf8_lossy(&record.key));
    let body = PyBytes::new(py, &record.body);
    (record.ordinal, id, key, record.timestamp, plan, reasons.join(", "), body).into_pyobject(py)
}

/// Returns native 64-bit integers as bytes.
fn i64s_to_bytes<'py>(py: Python<'py>, numbers: &[i64]) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, size_of_val(numbers), |bytes| {
        let (chunks, _) = bytes.as_chunks_mut();
        for (chunk, number) in chunks.iter_mut().zip(numbers) {
            *chunk = number.to_ne_bytes();
        }
        Ok(())
    })
}
