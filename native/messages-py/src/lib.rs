//! The Python module `sinks._messages`: exposes the crate `messages`. Described to Python in sinks/_messages.pyi.

mod memory;

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use messages::batch::{self, Options, Timestamps};
use messages::columns::Column;
use messages::envelope::{Decoder, Header, Shared};
use messages::partition;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use memory::{Bytes, Memory, Packed, i64s, i64s_to_bytes, u32s, u32s_to_bytes};

/// The version of this interface, which the Kafka sink checks. Increment it with every change that Python can see.
const INTERFACE: u32 = 3;

/// The Python object that decodes records: `Envelopes` in sinks/shared/cloud_events.py.
struct Envelopes<'e>(&'e Py<PyAny>);

impl Envelopes<'_> {
    fn call<T: for<'a, 'py> FromPyObject<'a, 'py, Error: Into<PyErr>>>(
        &self,
        method: &str,
        id: &[u8],
        body: &[u8],
    ) -> PyResult<T> {
        Python::attach(|py| {
            let arguments = (String::from_utf8_lossy(id), PyBytes::new(py, body));
            self.0.bind(py).call_method1(method, arguments)?.extract().map_err(Into::into)
        })
    }
}

impl Decoder for Envelopes<'_> {
    type Error = PyErr;

    fn shared(&self, id: &[u8], body: &[u8]) -> PyResult<Shared> {
        let (text, name, headers): (Vec<u8>, Vec<u8>, Vec<Header>) = self.call("shared", id, body)?;
        Ok(Shared::new(text, name, &headers))
    }

    fn headers(&self, id: &[u8], body: &[u8]) -> PyResult<Vec<Header>> {
        self.call("headers", id, body)
    }

    fn name(&self, id: &[u8], body: &[u8]) -> PyResult<Vec<u8>> {
        self.call::<String>("name", id, body).map(String::into_bytes)
    }
}

/// Writes record batches. Several threads may share it.
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

    /// Returns the event.name of each record, packed.
    fn names<'py>(
        &self,
        py: Python<'py>,
        ids: Packed<'py>,
        bodies: Packed<'py>,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let (ids, bodies) = (Memory::packed(&ids)?, Memory::records(&bodies)?);
        let names = || self.inner.names(&Envelopes(&self.envelopes), &ids.column(), &bodies.column());
        let (names, lengths) = py.detach(|| catch_panic(names))?;
        Ok((PyBytes::new(py, &names), i64s_to_bytes(py, &lengths)?))
    }
}

/// The records of one write.
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
            [timestamp] => Timestamps::Same(timestamp),
            _ => Timestamps::Each(&self.timestamps),
        };
        batch::Messages {
            ids: self.ids.column(),
            keys: self.keys.column(),
            bodies: self.bodies.column(),
            values: self.values.as_ref().map(Memory::column),
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
        let (ids, keys, bodies) = (Memory::packed(&ids)?, Memory::packed(&keys)?, Memory::records(&bodies)?);
        let values = values.as_ref().map(Memory::packed).transpose()?;
        let messages = Self { writer, ids, keys, bodies, values, timestamps: i64s(timestamps)? };
        let columns = messages.columns();
        let rows = columns.bodies.len();
        let lengths = [columns.ids.len(), columns.keys.len(), columns.values.as_ref().map_or(rows, Column::len)];
        let timestamps = messages.timestamps.len();
        if lengths != [rows; 3] || ![1, rows].contains(&timestamps) {
            let [ids, keys, values] = lengths;
            return Err(PyValueError::new_err(format!(
                "columns must have equal length, got {rows} bodies, {ids} ids, {keys} keys, {values} values, \
                 {timestamps} timestamps"
            )));
        }
        drop(columns);
        Ok(messages)
    }

    /// Groups records by partition: (topic, partition, indexes as native 32-bit integers) for each partition with records.
    fn by_partition<'py>(
        &self,
        py: Python<'py>,
        runs: Vec<(usize, usize)>,
        partitions: Vec<usize>,
        without: Vec<usize>,
    ) -> PyResult<Vec<(usize, usize, Bound<'py, PyBytes>)>> {
        let assign = || Ok(partition::assign(&self.keys.column(), &runs, &partitions, &without));
        let mut grouped = Vec::new();
        for (topic, partitions) in py.detach(|| catch_panic(assign))?.into_iter().enumerate() {
            for (partition, indexes) in partitions.into_iter().enumerate() {
                if !indexes.is_empty() {
                    grouped.push((topic, partition, u32s_to_bytes(py, &indexes)?));
                }
            }
        }
        Ok(grouped)
    }

    /// Writes a batch of the messages at `indexes`, as many as fit.
    fn batch(
        &self,
        py: Python<'_>,
        indexes: &Bound<'_, PyAny>,
        limit: usize,
        headers: bool,
        zstd: bool,
    ) -> PyResult<Batch> {
        let indexes = u32s(&Bytes::of(indexes)?);
        let writer = self.writer.get();
        let write = || {
            let decoder = Envelopes(&writer.envelopes);
            writer.inner.write(&decoder, &self.columns(), &indexes, Options { limit, headers, zstd })
        };
        py.detach(|| catch_panic(write)).map(|batch| Batch { inner: Mutex::new(batch) })
    }
}

/// A record batch.
#[pyclass(frozen)]
struct Batch {
    inner: Mutex<batch::Batch>,
}

impl Batch {
    fn lock(&self) -> MutexGuard<'_, batch::Batch> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Batch {
    fn __len__(&self) -> usize {
        self.lock().count() as usize
    }

    /// Returns the encoded records, compressed if the batch is.
    fn records<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.lock().records())
    }

    /// Replaces the records with the same ones, compressed by the codec that has this number in Kafka's protocol.
    fn replace(&self, codec: i16, compressed: &[u8]) {
        self.lock().replace(codec, compressed);
    }

    /// Writes the header, and returns the batch as it is sent.
    fn seal<'py>(&self, py: Python<'py>, producer: i64, epoch: i16, sequence: i32) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.lock().seal(producer, epoch, sequence))
    }
}

/// Groups consecutive references to the same object: (object, number of references).
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

/// Returns the partition of a record with this key in a topic with `partitions` partitions.
#[pyfunction]
fn partition_of(key: &[u8], partitions: NonZeroUsize) -> usize {
    partition::of_key(key, partitions.get())
}

/// Turns a panic into a RuntimeError, on which the caller uses the Python implementation. The panic is reported on stderr.
fn catch_panic<T>(work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    let bug = || PyRuntimeError::new_err("panic in native code, see stderr: this is a bug in btfeed");
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(bug()))
}

/// Builds Kafka record batches.
#[pymodule(gil_used = false)]
fn _messages(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add_class::<Writer>()?;
    module.add_class::<Messages>()?;
    module.add_function(wrap_pyfunction!(partition_of, module)?)?;
    module.add_function(wrap_pyfunction!(runs, module)?)
}
