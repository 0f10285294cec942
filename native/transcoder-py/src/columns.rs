//! Columns of a batch as Python sees them: bytes that are not copied, and strings that are created on access.

use std::ffi::c_int;
use std::sync::Arc;

use pyo3::exceptions::{PyBufferError, PyIndexError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator, PyList, PySlice, PyString};
use pyo3::{IntoPyObjectExt, ffi};
use transcoder::mapped::Part;
use transcoder::pool::Pool;
use transcoder::record::Span;

/// Immutable bytes that support Python's buffer protocol. Their memory goes back to the pool.
#[pyclass(frozen)]
pub struct Buffer {
    part: Part,
    pool: Arc<Pool>,
}

impl Buffer {
    /// Holds the records of `part`.
    pub fn new(part: Part, pool: Arc<Pool>) -> Self {
        Self { part, pool }
    }

    fn bytes(&self) -> &[u8] {
        &self.part.bytes[..self.part.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.part.bytes));
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

/// Buffers with their contents in a row, each with the position of its first byte.
type Buffers = Vec<(usize, Py<Buffer>)>;

/// A sequence of strings in buffers. Slices share the buffers that they need.
#[pyclass(frozen, sequence)]
pub struct Texts {
    buffers: Buffers,
    spans: Arc<[Span]>,
    start: usize,
    stop: usize,
}

impl Texts {
    /// The strings at these positions of `buffers`, in ascending order.
    pub fn new(py: Python<'_>, buffers: &[Py<Buffer>], spans: Vec<Span>) -> Self {
        let (mut end, stop) = (0, spans.len());
        let with_position = |buffer: &Py<Buffer>| {
            let position = end;
            end += buffer.get().part.length;
            (position, buffer.clone_ref(py))
        };
        Self { buffers: buffers.iter().map(with_position).collect(), spans: spans.into(), start: 0, stop }
    }

    /// The number of the buffer with this position.
    fn buffer(&self, at: usize) -> usize {
        self.buffers.partition_point(|&(position, _)| position <= at) - 1
    }

    fn bytes(&self, (at, length): Span) -> &[u8] {
        let (position, buffer) = &self.buffers[self.buffer(at)];
        &buffer.get().bytes()[at - position..at - position + length]
    }

    fn text<'py>(&self, py: Python<'py>, span: Span) -> Bound<'py, PyString> {
        PyString::new(py, &String::from_utf8_lossy(self.bytes(span))) // borrows: ids and keys are ASCII
    }

    fn list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.spans[self.start..self.stop].iter().map(|&span| self.text(py, span)))
    }

    fn slice(&self, py: Python<'_>, start: usize, stop: usize) -> Self {
        let needed = match &self.spans[start..stop] {
            [] => 0..0,
            [first, .., last] => self.buffer(first.0)..self.buffer(last.0) + 1,
            [only] => self.buffer(only.0)..self.buffer(only.0) + 1,
        };
        let buffers = self.buffers[needed].iter().map(|(position, buffer)| (*position, buffer.clone_ref(py))).collect();
        Self { buffers, spans: Arc::clone(&self.spans), start, stop }
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
            return self.slice(py, start, start + found.slicelength).into_bound_py_any(py);
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
        let spans = &self.spans[self.start..self.stop];
        let mut texts = Vec::with_capacity(spans.iter().map(|&(_, length)| length).sum());
        let mut lengths = Vec::with_capacity(spans.len() * size_of::<i64>());
        for &span in spans {
            texts.extend_from_slice(self.bytes(span));
            lengths.extend_from_slice(&(span.1 as i64).to_ne_bytes());
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
