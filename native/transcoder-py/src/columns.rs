//! Columns of a batch as Python sees them: bytes that are not copied, and strings that are created on access.

use std::ffi::c_int;
use std::sync::Arc;

use pyo3::exceptions::{PyBufferError, PyIndexError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator, PyList, PySlice, PyString};
use pyo3::{IntoPyObjectExt, ffi};
use transcoder::pool::Pool;
use transcoder::record::Span;

/// Immutable bytes that support Python's buffer protocol. Their memory goes back to the pool.
#[pyclass(frozen)]
pub struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    pool: Arc<Pool>,
}

impl Buffer {
    /// Holds the first `length` bytes of `bytes`.
    pub fn new(bytes: Vec<u8>, length: usize, pool: Arc<Pool>) -> Self {
        Self { bytes, length, pool }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

#[pymethods]
impl Buffer {
    /// # Safety
    ///
    /// Python passes a valid view to fill. The view holds a reference to `slf`, which never changes or moves its bytes, so
    /// the pointer is valid as long as the view.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("the view to fill is null"));
        }
        let bytes = slf.get().bytes();
        let (start, length) = (bytes.as_ptr().cast_mut().cast(), bytes.len() as ffi::Py_ssize_t);
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 1, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// A sequence of strings in a buffer. Slices share the buffer.
#[pyclass(frozen, sequence)]
pub struct Texts {
    buffer: Py<Buffer>,
    spans: Arc<[Span]>,
    start: usize,
    stop: usize,
}

impl Texts {
    /// The strings at these positions of `buffer`.
    pub fn new(buffer: Py<Buffer>, spans: Vec<Span>) -> Self {
        let stop = spans.len();
        Self { buffer, spans: spans.into(), start: 0, stop }
    }

    fn text<'py>(&self, py: Python<'py>, (at, length): Span) -> Bound<'py, PyString> {
        let bytes = &self.buffer.get().bytes()[at..at + length];
        PyString::new(py, &String::from_utf8_lossy(bytes)) // borrows: ids and keys are ASCII
    }

    fn list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.spans[self.start..self.stop].iter().map(|&span| self.text(py, span)))
    }
}

#[pymethods]
impl Texts {
    fn __len__(&self) -> usize {
        self.stop - self.start
    }

    fn __getitem__<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let length = self.__len__() as isize;
        if let Ok(slice) = key.cast::<PySlice>() {
            let found = slice.indices(length)?;
            if found.step != 1 {
                return self.list(py)?.as_any().get_item(key);
            }
            let start = self.start + found.start as usize;
            let stop = start + found.slicelength;
            let part = Self { buffer: self.buffer.clone_ref(py), spans: Arc::clone(&self.spans), start, stop };
            return part.into_bound_py_any(py);
        }
        let index: isize = key.extract()?;
        let index = if index < 0 { index + length } else { index };
        if !(0..length).contains(&index) {
            return Err(PyIndexError::new_err(format!("index out of range: the sequence has {length} strings")));
        }
        Ok(self.text(py, self.spans[self.start + index as usize]).into_any())
    }

    /// Returns all strings concatenated, and the size in bytes of each as native 64-bit integers.
    fn packed<'py>(&self, py: Python<'py>) -> (Bound<'py, PyBytes>, Bound<'py, PyBytes>) {
        let (spans, bytes) = (&self.spans[self.start..self.stop], self.buffer.get().bytes());
        let mut texts = Vec::with_capacity(spans.iter().map(|&(_, length)| length).sum());
        let mut lengths = Vec::with_capacity(spans.len() * size_of::<i64>());
        for &(at, length) in spans {
            texts.extend_from_slice(&bytes[at..at + length]);
            lengths.extend_from_slice(&(length as i64).to_ne_bytes());
        }
        (PyBytes::new(py, &texts), PyBytes::new(py, &lengths))
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.list(py)?.try_iter()
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        let theirs = PyList::new(py, other.try_iter()?.collect::<PyResult<Vec<_>>>()?)?;
        self.list(py)?.eq(theirs)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.list(py)?.repr()?.to_string())
    }
}
