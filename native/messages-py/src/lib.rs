//! `sinks._messages`: what Python sees of `messages`. sinks/_kafka_messages.py uses it, sinks/_messages.pyi describes it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use messages::batch::{self, Times, Wanted};
use messages::columns::{Column, Rows};
use messages::envelope::{Header, Reader, Shared};
use messages::partition;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

/// What sinks/_kafka_messages.py expects; it grows with every change that Python sees.
const INTERFACE: u32 = 1;

/// Texts one behind the other, and the bytes of each as native 64-bit numbers.
type Packed<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

/// The bytes of an object of Python's that nothing changes.
struct Bytes(PyUntypedBuffer);

impl Bytes {
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if !buffer.is_c_contiguous() {
            return Err(PyValueError::new_err("these bytes do not stand one behind the other"));
        }
        Ok(Self(buffer))
    }

    fn get(&self) -> &[u8] {
        let (start, length) = (self.0.buf_ptr().cast::<u8>().cast_const(), self.0.len_bytes());
        if length == 0 {
            return &[]; // its pointer may be null
        }
        // SAFETY: the view keeps these bytes where they are for as long as `self`, and a batch's columns are immutable.
        unsafe { std::slice::from_raw_parts(start, length) }
    }
}

/// Numbers, from the bytes of an object of Python's.
fn numbers(object: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    let bytes = Bytes::of(object)?;
    let (numbers, rest) = bytes.get().as_chunks::<8>();
    if !rest.is_empty() {
        return Err(PyValueError::new_err("numbers have eight bytes each"));
    }
    Ok(numbers.iter().map(|number| i64::from_ne_bytes(*number)).collect())
}

/// The memory of a column, and where its rows stand in it.
struct Memory {
    parts: Vec<Bytes>,
    rows: Rows,
}

impl Memory {
    fn new(parts: Vec<Bytes>, lengths: &Bound<'_, PyAny>, ending: usize) -> PyResult<Self> {
        let pieces: Vec<_> = parts.iter().map(Bytes::get).collect();
        let rows = Rows::new(&pieces, &numbers(lengths)?, ending)
            .ok_or_else(|| PyValueError::new_err("a column's lengths are not those of its parts"))?;
        Ok(Self { parts, rows })
    }

    /// Texts that stand in one part.
    fn packed((texts, lengths): &Packed<'_>) -> PyResult<Self> {
        Self::new(vec![Bytes::of(texts)?], lengths, 0)
    }

    /// Records, each with a newline at its end that is not wanted.
    fn records((parts, sizes): &Packed<'_>) -> PyResult<Self> {
        Self::new(parts.try_iter()?.map(|part| Bytes::of(&part?)).collect::<PyResult<_>>()?, sizes, 1)
    }

    fn column(&self) -> Column<'_> {
        Column::new(self.parts.iter().map(Bytes::get).collect(), &self.rows)
    }
}

/// sinks/_cloud_events.py, which reads what is not known yet.
struct Envelopes<'e>(&'e Py<PyAny>);

impl Envelopes<'_> {
    fn ask<T: for<'a, 'py> FromPyObject<'a, 'py, Error: Into<PyErr>>>(
        &self,
        what: &str,
        id: &[u8],
        body: &[u8],
    ) -> PyResult<T> {
        Python::attach(|py| {
            let arguments = (String::from_utf8_lossy(id), PyBytes::new(py, body));
            self.0.bind(py).call_method1(what, arguments)?.extract().map_err(Into::into)
        })
    }
}

impl Reader for Envelopes<'_> {
    type Error = PyErr;

    fn shared(&self, id: &[u8], body: &[u8]) -> PyResult<Shared> {
        let (text, name, headers): (Vec<u8>, Vec<u8>, Vec<Header>) = self.ask("shared", id, body)?;
        Ok(Shared::new(text, name, &headers))
    }

    fn headers(&self, id: &[u8], body: &[u8]) -> PyResult<Vec<Header>> {
        self.ask("headers", id, body)
    }

    fn name(&self, id: &[u8], body: &[u8]) -> PyResult<Vec<u8>> {
        self.ask::<String>("name", id, body).map(String::into_bytes)
    }
}

/// Writes record batches. Several threads may use it.
#[pyclass(frozen)]
struct Writer {
    inner: batch::Writer,
    envelopes: Py<PyAny>,
}

#[pymethods]
impl Writer {
    #[new]
    fn new(envelopes: Py<PyAny>) -> Self {
        Self { inner: batch::Writer::default(), envelopes }
    }

    /// event.name of each record, packed.
    fn names<'py>(
        &self,
        py: Python<'py>,
        ids: Packed<'py>,
        bodies: Packed<'py>,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let (ids, bodies) = (Memory::packed(&ids)?, Memory::records(&bodies)?);
        let (names, lengths) = py.detach(|| {
            soundly(|| {
                let (ids, bodies) = (ids.column(), bodies.column());
                let reader = Envelopes(&self.envelopes);
                let (mut names, mut lengths, mut last) = (Vec::new(), Vec::new(), Default::default());
                for index in 0..ids.len() {
                    let name = self.inner.known.name(&reader, ids.get(index), bodies.get(index), &mut last)?;
                    lengths.extend_from_slice(&(name.len() as i64).to_ne_bytes());
                    names.extend_from_slice(&name);
                }
                Ok((names, lengths))
            })
        })?;
        Ok((PyBytes::new(py, &names), PyBytes::new(py, &lengths)))
    }
}

/// The records of a write.
#[pyclass(frozen)]
struct Messages {
    writer: Py<Writer>,
    ids: Memory,
    keys: Memory,
    bodies: Memory,
    values: Option<Memory>,
    timestamps: Vec<i64>,
}

impl Messages {
    fn columns(&self) -> batch::Messages<'_> {
        let timestamps = match self.timestamps[..] {
            [time] => Times::One(time),
            _ => Times::Each(&self.timestamps),
        };
        let values = self.values.as_ref().map(Memory::column);
        batch::Messages {
            ids: self.ids.column(),
            keys: self.keys.column(),
            bodies: self.bodies.column(),
            values,
            timestamps,
        }
    }
}

#[pymethods]
impl Messages {
    #[new]
    fn new(
        writer: Py<Writer>,
        ids: Packed<'_>,
        keys: Packed<'_>,
        bodies: Packed<'_>,
        values: Option<Packed<'_>>,
        timestamps: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let values = values.as_ref().map(Memory::packed).transpose()?;
        let (ids, keys, timestamps) = (Memory::packed(&ids)?, Memory::packed(&keys)?, numbers(timestamps)?);
        let found = Self { writer, ids, keys, bodies: Memory::records(&bodies)?, values, timestamps };
        let columns = found.columns();
        let rows = columns.bodies.len();
        let values = columns.values.as_ref().map_or(rows, Column::len);
        if [columns.ids.len(), columns.keys.len(), values] != [rows; 3] || ![1, rows].contains(&found.timestamps.len()) {
            return Err(PyValueError::new_err("columns are of equal length"));
        }
        drop(columns);
        Ok(found)
    }

    /// (topic, partition, indexes as native 32-bit numbers) of all records, but for those at `without`.
    fn lanes<'py>(
        &self,
        py: Python<'py>,
        runs: Vec<(usize, usize)>,
        partitions: Vec<usize>,
        without: Vec<usize>,
    ) -> PyResult<Vec<(usize, usize, Bound<'py, PyBytes>)>> {
        let assign = || Ok(partition::assign(&self.keys.column(), &runs, &partitions, &without));
        let topics = py.detach(|| soundly(assign))?.into_iter().enumerate();
        let lanes = topics.flat_map(|(topic, lanes)| lanes.into_iter().enumerate().map(move |lane| (topic, lane)));
        let used = lanes.filter(|(_, (_, indexes))| !indexes.is_empty());
        used.map(|(topic, (number, indexes))| Ok((topic, number, index_bytes(py, &indexes)?))).collect()
    }

    /// A batch of the messages at `indexes`, as many as there is room for.
    fn batch(
        &self,
        py: Python<'_>,
        indexes: &Bound<'_, PyAny>,
        limit: usize,
        headers: bool,
        zstd: bool,
    ) -> PyResult<Batch> {
        let indexes = Bytes::of(indexes)?;
        let (indexes, _) = indexes.get().as_chunks::<4>();
        let indexes: Vec<u32> = indexes.iter().map(|index| u32::from_ne_bytes(*index)).collect();
        let writer = self.writer.get();
        let write = || {
            let reader = Envelopes(&writer.envelopes);
            writer.inner.write(&reader, &self.columns(), &indexes, Wanted { limit, headers, zstd })
        };
        py.detach(|| soundly(write)).map(|batch| Batch { inner: Mutex::new(batch) })
    }
}

/// Records, compressed or not.
#[pyclass(frozen)]
struct Batch {
    inner: Mutex<batch::Batch>,
}

impl Batch {
    fn get(&self) -> std::sync::MutexGuard<'_, batch::Batch> {
        self.inner.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

#[pymethods]
impl Batch {
    fn __len__(&self) -> usize {
        self.get().count() as usize
    }

    /// The records as they are.
    fn records<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.get().records())
    }

    /// They were compressed by the codec of that number.
    fn replace(&self, codec: i16, compressed: &[u8]) {
        self.get().replace(codec, compressed);
    }

    /// The whole batch, as it is sent.
    fn seal<'py>(&self, py: Python<'py>, producer: i64, epoch: i16, sequence: i32) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.get().seal(producer, epoch, sequence))
    }
}

/// Indexes as native 32-bit numbers.
fn index_bytes<'py>(py: Python<'py>, indexes: &[u32]) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, size_of_val(indexes), |bytes| {
        let (numbers, _) = bytes.as_chunks_mut();
        for (number, index) in numbers.iter_mut().zip(indexes) {
            *number = index.to_ne_bytes();
        }
        Ok(())
    })
}

/// Objects as (object, how often it stands there one behind the other).
#[pyfunction]
fn runs<'py>(objects: &Bound<'py, PyList>) -> Vec<(Bound<'py, PyAny>, usize)> {
    let mut found: Vec<(Bound<'py, PyAny>, usize)> = Vec::new();
    for object in objects.iter() {
        match found.last_mut() {
            Some((last, count)) if last.is(&object) => *count += 1,
            _ => found.push((object, 1)),
        }
    }
    found
}

/// RuntimeError where `work` panics: that is a bug, which the panic says on stderr, and no reason to end the server.
fn soundly<T>(work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(PyRuntimeError::new_err("a panic")))
}

/// Kafka's record batches.
#[pymodule(gil_used = false)]
fn _messages(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add_class::<Writer>()?;
    module.add_class::<Messages>()?;
    module.add_function(wrap_pyfunction!(runs, module)?)
}
