//! Memory of Python objects, read without copying.

use messages::columns::{Column, Rows};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Rows and their lengths: two Python objects. The lengths are native 64-bit integers in a buffer.
pub type Packed<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

/// The bytes of a Python object that supports the buffer protocol. The caller must not change them.
pub struct Bytes(PyUntypedBuffer);

impl Bytes {
    /// Raises an error if `object` is not a contiguous buffer.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if !buffer.is_c_contiguous() {
            return Err(PyValueError::new_err("the buffer is not contiguous: copy it to bytes first"));
        }
        Ok(Self(buffer))
    }

    fn get(&self) -> &[u8] {
        let (start, length) = (self.0.buf_ptr().cast::<u8>().cast_const(), self.0.len_bytes());
        if length == 0 {
            return &[]; // the pointer may be null
        }
        // SAFETY: the buffer view keeps the memory alive and in place while `self` exists, and callers pass only objects
        // that they don't change: the columns of a batch are immutable.
        unsafe { std::slice::from_raw_parts(start, length) }
    }
}

/// The memory of a column, and the positions of its rows.
pub struct Memory {
    parts: Vec<Bytes>,
    rows: Rows,
}

impl Memory {
    fn new(parts: Vec<Bytes>, lengths: &Bound<'_, PyAny>, ending: usize) -> PyResult<Self> {
        let pieces: Vec<_> = parts.iter().map(Bytes::get).collect();
        let rows = Rows::new(&pieces, &i64s(lengths)?, ending)
            .ok_or_else(|| PyValueError::new_err("the lengths of a column's rows do not match its buffers"))?;
        Ok(Self { parts, rows })
    }

    /// Takes rows that lie in one buffer.
    pub fn packed((rows, lengths): &Packed<'_>) -> PyResult<Self> {
        Self::new(vec![Bytes::of(rows)?], lengths, 0)
    }

    /// Takes records from an iterable of buffers. The column leaves out the newline at the end of each record.
    pub fn records((parts, sizes): &Packed<'_>) -> PyResult<Self> {
        Self::new(parts.try_iter()?.map(|part| Bytes::of(&part?)).collect::<PyResult<_>>()?, sizes, 1)
    }

    /// Returns the rows.
    pub fn column(&self) -> Column<'_> {
        Column::new(self.parts.iter().map(Bytes::get).collect(), &self.rows)
    }
}

/// Reads a buffer of native 64-bit integers.
pub fn i64s(object: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    let bytes = Bytes::of(object)?;
    let (numbers, rest) = bytes.get().as_chunks();
    if !rest.is_empty() {
        return Err(PyValueError::new_err("a buffer of 64-bit integers must have a multiple of 8 bytes"));
    }
    Ok(numbers.iter().map(|number| i64::from_ne_bytes(*number)).collect())
}

/// Reads native 32-bit integers.
pub fn u32s(bytes: &Bytes) -> Vec<u32> {
    let (numbers, _) = bytes.get().as_chunks();
    numbers.iter().map(|number| u32::from_ne_bytes(*number)).collect()
}

/// Returns native 64-bit integers as bytes.
pub fn i64s_to_bytes<'py>(py: Python<'py>, numbers: &[i64]) -> PyResult<Bound<'py, PyBytes>> {
    filled(py, numbers, |number| number.to_ne_bytes())
}

/// Returns native 32-bit integers as bytes.
pub fn u32s_to_bytes<'py>(py: Python<'py>, numbers: &[u32]) -> PyResult<Bound<'py, PyBytes>> {
    filled(py, numbers, |number| number.to_ne_bytes())
}

fn filled<'py, T: Copy, const SIZE: usize>(
    py: Python<'py>,
    numbers: &[T],
    encode: impl Fn(T) -> [u8; SIZE],
) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, numbers.len() * SIZE, |bytes| {
        let (chunks, _) = bytes.as_chunks_mut();
        for (chunk, number) in chunks.iter_mut().zip(numbers) {
            *chunk = encode(*number);
        }
        Ok(())
    })
}
