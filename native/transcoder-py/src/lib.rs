//! `btfeed._native`: what Python sees of the transcoder. btfeed/transcode.py uses it, btfeed/_native.pyi describes it.

mod columns;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use transcoder::outline::{self, Limits};
use transcoder::plan::{Compiler, List, Source};
use transcoder::post::{Failure, Mapped, Run, occurrences};
use transcoder::table::{Encoding, Field, Policy, Roles, Settings, Table};

use columns::{Buffer, Texts};

/// What btfeed/native.py expects; it grows with every change that Python sees.
const INTERFACE: u32 = 4;
/// Bodies from this size on are worked on without the interpreter's lock; to let go of it costs as much as a short one.
const LARGE: usize = 1 << 14;

/// Python's plan and its transaction are the caller's; here they are carried from one call to the next.
type Plan = Py<PyAny>;

/// What Python compiles business transactions with.
struct Callback<'c> {
    compile: &'c Py<PyAny>,
    names: &'c Py<PyAny>,
}

impl Compiler for Callback<'_> {
    type Plan = Plan;
    type Error = PyErr;

    fn compile(&self, server: Option<&[u8]>, head: &[u8]) -> PyResult<Source<Plan>> {
        Python::attach(|py| {
            let arguments = (server.map(|name| PyBytes::new(py, name)), PyBytes::new(py, head));
            let (python, category, tail, invalid_utf8, measures, dimensions) =
                self.compile.bind(py).call1(arguments)?.extract::<(Plan, usize, Vec<u8>, u64, _, _)>()?;
            Ok(Source { python, category, tail, invalid_utf8, names: [measures, dimensions] })
        })
    }

    fn names(&self, plan: &Plan, list: List, count: usize) -> PyResult<Vec<String>> {
        Python::attach(|py| self.names.bind(py).call1((plan, list == List::Dimensions, count))?.extract())
    }
}

/// Transcodes posts under one configuration. Several threads may use it.
#[pyclass(frozen)]
struct Transcoder {
    inner: transcoder::post::Transcoder<Plan>,
    compile: Py<PyAny>,
    names: Py<PyAny>,
}

#[pymethods]
impl Transcoder {
    #[new]
    fn new(
        fields: Vec<(u32, String, String, String, String, String)>,
        roles: &Bound<'_, PyDict>,
        settings: &Bound<'_, PyDict>,
        compile: Py<PyAny>,
        names: Py<PyAny>,
    ) -> PyResult<Self> {
        let fields = fields.into_iter().map(field).collect::<PyResult<_>>()?;
        let table = Table::new(fields, self::roles(roles)?, self::settings(settings)?).map_err(PyValueError::new_err)?;
        Ok(Self { inner: transcoder::post::Transcoder::new(table), compile, names })
    }

    /// Of each post its columns, refused occurrences and counts, an exception of Python's, or None where the plain path has
    /// to say what is wrong with it. Ends behind the post with which there are more than `room` bytes of records.
    fn transcode<'py>(
        &self,
        py: Python<'py>,
        posts: Vec<(Bound<'py, PyBytes>, String)>,
        room: usize,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let compiler = Callback { compile: &self.compile, names: &self.names };
        let bodies: Vec<_> = posts.iter().map(|(body, prefix)| (body.as_bytes(), prefix.as_bytes())).collect();
        let transcoded = py.detach(|| {
            let (mut found, mut size) = (Vec::with_capacity(bodies.len()), 0);
            for (body, prefix) in bodies {
                let one = soundly(|| self.inner.transcode(body, prefix, &compiler));
                size += if let Some(Ok(mapped)) = &one { mapped.length } else { 0 };
                found.push(one);
                if size > room {
                    break;
                }
            }
            found
        });
        let told = |one: Option<Result<_, Failure<PyErr>>>| match one {
            Some(Ok(mapped)) => result(py, &self.inner, mapped).map(Bound::into_any),
            Some(Err(Failure::Compiler(error))) => Ok(error.into_value(py).into_bound(py).into_any()),
            Some(Err(Failure::Malformed)) | None => Ok(py.None().into_bound(py)),
        };
        transcoded.into_iter().map(told).collect()
    }
}

/// The number of occurrences in an acceptable post; None where the plain path has to say what is wrong with it.
#[pyfunction]
fn admit(py: Python<'_>, body: &Bound<'_, PyBytes>, limits: (u64, u64, u64, usize)) -> Option<u64> {
    let bytes = body.as_bytes();
    let look = || admit_bytes(bytes, limits);
    if bytes.len() < LARGE { look() } else { py.detach(look) }
}

fn admit_bytes(body: &[u8], (occurrences, elements, shared, long): (u64, u64, u64, usize)) -> Option<u64> {
    soundly(|| outline::admit(body, &Limits { occurrences, elements, shared, long })).flatten()
}

/// None where `work` panics: that is a bug, which the panic says on stderr, and no reason to end the server or to lose a
/// post that the plain path can take.
fn soundly<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// BLAKE2b-256 of each.
#[pyfunction]
fn digests<'py>(py: Python<'py>, bodies: Vec<Bound<'py, PyBytes>>) -> Vec<Bound<'py, PyBytes>> {
    let bytes: Vec<&[u8]> = bodies.iter().map(|body| body.as_bytes()).collect();
    py.detach(|| transcoder::digests(&bytes)).iter().map(|digest| PyBytes::new(py, digest)).collect()
}

/// A number as records write it.
#[pyfunction]
fn number(value: f64) -> PyResult<String> {
    let mut json = transcoder::json::Writer::default();
    json.number(value);
    Ok(String::from_utf8(json.written().to_vec())?)
}

fn field(row: (u32, String, String, String, String, String)) -> PyResult<Field> {
    let (number, name, kind, presence, record, encoding) = row;
    let encoding =
        Encoding::named(&encoding).ok_or_else(|| PyValueError::new_err(format!("no encoding is called {encoding}")))?;
    Ok(Field { number, name, kind, presence, record, encoding })
}

fn get<'py, T: for<'a> FromPyObject<'a, 'py, Error = PyErr>>(table: &Bound<'py, PyDict>, key: &str) -> PyResult<T> {
    table.as_any().get_item(key)?.extract()
}

fn roles(table: &Bound<'_, PyDict>) -> PyResult<Roles> {
    Ok(Roles {
        start_time: get(table, "start_time")?,
        end_time: get(table, "end_time")?,
        duration: get(table, "duration")?,
        visit_id: get(table, "visit_id")?,
        visit: get(table, "visit")?,
    })
}

fn settings(table: &Bound<'_, PyDict>) -> PyResult<Settings> {
    let policy = |key: &str| {
        let name: String = get(table, key)?;
        Policy::named(&name).ok_or_else(|| PyValueError::new_err(format!("no policy is called {name}")))
    };
    Ok(Settings {
        head: get(table, "head")?,
        missing: policy("missing")?,
        unexpected: policy("unexpected")?,
        drop: get(table, "drop")?,
        hash: get(table, "hash")?,
        key: get(table, "key")?,
        mask: get(table, "mask")?,
        defaults: get(table, "defaults")?,
    })
}

fn result<'py>(
    py: Python<'py>,
    transcoder: &transcoder::post::Transcoder<Plan>,
    mapped: Mapped<Plan>,
) -> PyResult<Bound<'py, PyTuple>> {
    let table = transcoder.table();
    let runs = mapped.runs.iter().map(|run| run_of(py, table, run)).collect::<PyResult<Vec<_>>>()?;
    let refused = PyList::empty(py);
    for one in &mapped.refused {
        let plan = &mapped.runs[one.run].plan.python;
        let reasons: Vec<_> = one.broken.iter().map(|(rule, field)| format!("{rule} {field}")).collect();
        let (id, key) = (String::from_utf8_lossy(&one.id), String::from_utf8_lossy(&one.key));
        let body = PyBytes::new(py, &one.body);
        refused.append((one.ordinal, id, key, one.timestamp, plan, reasons.join(", "), body))?;
    }
    let odd = (mapped.odd.left_out, mapped.odd.invalid_utf8);
    let counts = (occurrences(&mapped.runs), mapped.mismatches, mapped.unknown, mapped.lost, odd);
    let json = Bound::new(py, Buffer::new(mapped.json, mapped.length, Arc::clone(transcoder.pool())))?.unbind();
    let ids = Texts::new(json.clone_ref(py), mapped.ids);
    let keys = Texts::new(json.clone_ref(py), mapped.keys);
    let numbers = |column: Vec<i64>| {
        let bytes: Vec<u8> = column.iter().flat_map(|value| value.to_ne_bytes()).collect();
        PyBytes::new(py, &bytes)
    };
    (json, ids, keys, numbers(mapped.timestamps), numbers(mapped.sizes), runs, refused, counts).into_pyobject(py)
}

/// (plan, records, violations), the last as (field, rule, number).
fn run_of<'py>(py: Python<'py>, table: &Table, run: &Run<Plan>) -> PyResult<Bound<'py, PyTuple>> {
    let mut violations = Vec::new();
    if run.plan.category == transcoder::table::UNKNOWN && run.occurrences > 0 {
        violations.push((PyString::intern(py, "type"), "missing", run.occurrences));
    }
    for field in &table.fields {
        for (rule, counts) in [("missing", &run.missing), ("unexpected", &run.unexpected)] {
            let number = counts[field.number as usize];
            if number > 0 {
                violations.push((PyString::new(py, &field.name), rule, number));
            }
        }
    }
    (&run.plan.python, run.records, violations).into_pyobject(py)
}

/// The native transcoder.
#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add_class::<Transcoder>()?;
    module.add_class::<Texts>()?;
    module.add_class::<Buffer>()?;
    module.add_function(wrap_pyfunction!(admit, module)?)?;
    module.add_function(wrap_pyfunction!(digests, module)?)?;
    module.add_function(wrap_pyfunction!(number, module)?)
}
