//! The Python module `btfeed._native`: exposes the crate `transcoder`. Described to Python in btfeed/_native.pyi.

mod appender;
mod columns;
mod convert;

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use transcoder::admission::{self, Limits};
use transcoder::mapped::Mapped;
use transcoder::plan::{Compiled, Compiler, List};
use transcoder::post::Error;
use transcoder::table::Table;

use appender::Appender;
use columns::{Buffer, Texts};
use convert::FieldRow;

/// The version of this interface, which btfeed/native.py checks. Increment it with every change that Python can see.
const INTERFACE: u32 = 8;
/// The size in bytes from which on a body is checked without the GIL. For smaller ones, releasing it costs as much as the
/// check.
const RELEASE_GIL_SIZE: usize = 1 << 14;

/// A plan in Python. Passed through unread.
type PyPlan = Py<PyAny>;

/// The Python functions that compile business transactions.
struct Callbacks<'c> {
    compile: &'c Py<PyAny>,
    names: &'c Py<PyAny>,
}

impl Compiler for Callbacks<'_> {
    type Plan = PyPlan;
    type Error = PyErr;

    fn compile(&self, server: Option<&[u8]>, shared: &[u8]) -> PyResult<Compiled<PyPlan>> {
        Python::attach(|py| {
            let arguments = (server.map(|name| PyBytes::new(py, name)), PyBytes::new(py, shared));
            let (python, category, tail, invalid_utf8, measures, dimensions) =
                self.compile.bind(py).call1(arguments)?.extract::<(PyPlan, usize, Vec<u8>, u64, _, _)>()?;
            Ok(Compiled { python, category, tail, invalid_utf8, names: [measures, dimensions] })
        })
    }

    fn names(&self, plan: &PyPlan, list: List, count: usize) -> PyResult<Vec<String>> {
        Python::attach(|py| self.names.bind(py).call1((plan, list == List::Dimensions, count))?.extract())
    }
}

/// Maps posts under one configuration. Several threads may share it.
#[pyclass(frozen)]
struct Transcoder {
    inner: transcoder::post::Transcoder<PyPlan>,
    compile: Py<PyAny>,
    names: Py<PyAny>,
}

#[pymethods]
impl Transcoder {
    #[new]
    fn new(
        fields: Vec<FieldRow>,
        roles: &Bound<'_, PyDict>,
        settings: &Bound<'_, PyDict>,
        compile: Py<PyAny>,
        names: Py<PyAny>,
    ) -> PyResult<Self> {
        let fields = fields.into_iter().map(convert::field).collect::<PyResult<_>>()?;
        let table =
            Table::new(fields, convert::roles(roles)?, convert::settings(settings)?).map_err(PyValueError::new_err)?;
        Ok(Self { inner: transcoder::post::Transcoder::new(table), compile, names })
    }

    /// Maps posts, each given as its body and the prefix of its event.ids.
    ///
    /// Returns for each post its records, with what was noticed; or the exception that a callback raised; or None if the
    /// Python implementation has to map it and say what is wrong. Stops once the records exceed `room` bytes. Posts in a row
    /// whose records fit into `run` bytes, none of them refused, are one result.
    #[pyo3(signature = (posts, room, run = 0))]
    fn transcode<'py>(
        &self,
        py: Python<'py>,
        posts: Vec<(Bound<'py, PyBytes>, String)>,
        room: usize,
        run: usize,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let compiler = Callbacks { compile: &self.compile, names: &self.names };
        let posts: Vec<_> = posts.iter().map(|(body, prefix)| (body.as_bytes(), prefix.as_bytes())).collect();
        let results = py.detach(|| {
            let (mut results, mut size) = (Vec::new(), 0);
            let pool = self.inner.pool();
            for (body, prefix) in posts {
                let result = catch_panic(|| self.inner.transcode(body, prefix, &compiler));
                size += if let Some(Ok(mapped)) = &result { mapped.length } else { 0 };
                match (results.last_mut(), result) {
                    (Some(Some(Ok(last))), Some(Ok(next))) if Mapped::joins(last, &next, run) => last.join(next, pool),
                    (_, result) => results.push(result),
                }
                if size > room {
                    break;
                }
            }
            results.iter_mut().flatten().flatten().for_each(|mapped| mapped.shrink(pool));
            results
        });
        let to_python = |result: Option<Result<_, Error<PyErr>>>| match result {
            Some(Ok(mapped)) => convert::mapped(py, &self.inner, mapped).map(Bound::into_any),
            Some(Err(Error::Compiler(error))) => Ok(error.into_value(py).into_bound(py).into_any()),
            Some(Err(Error::Malformed)) | None => Ok(py.None().into_bound(py)),
        };
        results.into_iter().map(to_python).collect()
    }
}

/// Returns the number of occurrences in a valid post. None if the Python implementation has to say what is wrong with it.
#[pyfunction]
fn admit(py: Python<'_>, body: &Bound<'_, PyBytes>, limits: (u64, u64, u64, usize)) -> Option<u64> {
    let (occurrences, elements, shared, long) = limits;
    let limits = Limits { occurrences, elements, shared, long };
    let bytes = body.as_bytes();
    let check = || catch_panic(|| admission::admit(bytes, &limits)).flatten();
    if bytes.len() < RELEASE_GIL_SIZE { check() } else { py.detach(check) }
}

/// Returns None if `work` panics. The Python implementation then does the work; the panic is reported on stderr.
fn catch_panic<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Returns the BLAKE2b-256 digest of each body.
#[pyfunction]
fn digests<'py>(py: Python<'py>, bodies: Vec<Bound<'py, PyBytes>>) -> Vec<Bound<'py, PyBytes>> {
    let bytes: Vec<&[u8]> = bodies.iter().map(|body| body.as_bytes()).collect();
    py.detach(|| transcoder::digests(&bytes)).iter().map(|digest| PyBytes::new(py, digest)).collect()
}

/// Returns a finite number as records write it.
#[pyfunction]
fn number(value: f64) -> PyResult<String> {
    let mut json = transcoder::json::Writer::default();
    json.number(value);
    Ok(String::from_utf8(json.as_bytes().to_vec())?)
}

/// Maps posts to records.
#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add_class::<Transcoder>()?;
    module.add_class::<Appender>()?;
    module.add_class::<Texts>()?;
    module.add_class::<Buffer>()?;
    module.add_function(wrap_pyfunction!(admit, module)?)?;
    module.add_function(wrap_pyfunction!(digests, module)?)?;
    module.add_function(wrap_pyfunction!(number, module)?)
}
