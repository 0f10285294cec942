//! CloudEvents headers of messages, in binary mode.
//!
//! Between its `event.id` and its `timestamp`, every record of a business transaction has the same text. Python decodes one
//! record per transaction and returns the headers that follow from that text; the cache maps the text to those headers.
//! For records with another layout, Python makes all headers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::varint::{put_bytes, put_varint};

/// The beginning of every record, up to the value of `event.id`.
const BEGINNING: &[u8] = br#"{"event.kind":"BIZ_EVENT","event.id":""#;
const TIMESTAMP: &[u8] = br#","timestamp":""#;
const TIMESTAMP_SIZE: usize = "2026-01-31T12:00:00.000Z".len();
/// The number of business transactions to cache.
const MAX_CACHED: usize = 10_000;
/// The longest text to cache, in bytes. Senders choose how long names are.
const MAX_TEXT: usize = 1 << 12;
/// The number of headers in the usual layout: ce_id, ce_type, ce_source, ce_specversion, content-type, ce_time.
const HEADERS: i64 = 6;

/// The name and the value of a header.
pub type Header = (String, Vec<u8>);

/// What all records of a business transaction share.
#[derive(Default)]
pub struct Shared {
    /// The text from the closing quote of `event.id` to the opening quote of `timestamp`. Empty if the record has another
    /// layout.
    pub text: Vec<u8>,
    /// The value of `event.name`. Empty if `text` does not contain it.
    pub name: Vec<u8>,
    /// The encoded headers between ce_id and ce_time.
    pub headers: Vec<u8>,
}

impl Shared {
    /// Encodes `headers`, the headers between ce_id and ce_time.
    #[must_use]
    pub fn new(text: Vec<u8>, name: Vec<u8>, headers: &[Header]) -> Self {
        let mut shared = Self { text, name, headers: Vec::new() };
        put_headers(&mut shared.headers, headers);
        shared
    }
}

/// Decodes records. Implemented by calls to Python.
pub trait Decoder {
    /// The error of a failed call.
    type Error;

    /// Returns what the record shares with all others of its business transaction.
    fn shared(&self, id: &[u8], body: &[u8]) -> Result<Shared, Self::Error>;
    /// Returns all headers of the record.
    fn headers(&self, id: &[u8], body: &[u8]) -> Result<Vec<Header>, Self::Error>;
    /// Returns the record's `event.name`.
    fn name(&self, id: &[u8], body: &[u8]) -> Result<Vec<u8>, Self::Error>;
}

/// What is known about business transactions, by the text that their records share.
#[derive(Default)]
pub(crate) struct Cache {
    by_text: Mutex<HashMap<Vec<u8>, Arc<Shared>>>,
}

impl Cache {
    /// Returns what the record shares with others.
    ///
    /// `last` is the result for the previous record. It is tried first, and replaced if this record has the usual layout.
    fn find<D: Decoder>(
        &self,
        decoder: &D,
        id: &[u8],
        body: &[u8],
        last: &mut Arc<Shared>,
    ) -> Result<Arc<Shared>, D::Error> {
        let rest = body.get(BEGINNING.len() + id.len()..).unwrap_or_default();
        if !last.text.is_empty() && rest.starts_with(&last.text) {
            return Ok(Arc::clone(last));
        }
        let end = rest.windows(TIMESTAMP.len()).position(|window| window == TIMESTAMP).map(|at| at + TIMESTAMP.len());
        if let Some(found) = end.and_then(|end| self.lock().get(&rest[..end]).map(Arc::clone)) {
            *last = Arc::clone(&found);
            return Ok(found);
        }
        let found = Arc::new(decoder.shared(id, body)?); // without the lock: Python may take long
        if !found.text.is_empty() {
            if found.text.len() <= MAX_TEXT {
                let mut by_text = self.lock();
                if by_text.len() >= MAX_CACHED {
                    by_text.clear();
                }
                by_text.insert(found.text.clone(), Arc::clone(&found));
            }
            *last = Arc::clone(&found);
        }
        Ok(found)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<Shared>>> {
        self.by_text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the record's `event.name`. `last`: see `find`.
    pub(crate) fn name<D: Decoder>(
        &self,
        decoder: &D,
        id: &[u8],
        body: &[u8],
        last: &mut Arc<Shared>,
    ) -> Result<Vec<u8>, D::Error> {
        let shared = self.find(decoder, id, body, last)?;
        if shared.name.is_empty() { decoder.name(id, body) } else { Ok(shared.name.clone()) }
    }

    /// Appends the number of the record's headers and the headers to `out`. `last`: see `find`.
    pub(crate) fn put_headers<D: Decoder>(
        &self,
        decoder: &D,
        id: &[u8],
        body: &[u8],
        last: &mut Arc<Shared>,
        out: &mut Vec<u8>,
    ) -> Result<(), D::Error> {
        let shared = self.find(decoder, id, body, last)?;
        let start = BEGINNING.len() + id.len() + shared.text.len();
        let timestamp = body.get(start..start + TIMESTAMP_SIZE);
        match timestamp {
            Some(timestamp) if !shared.text.is_empty() && body.get(start + TIMESTAMP_SIZE) == Some(&b'"') => {
                put_varint(out, HEADERS);
                put_bytes(out, b"ce_id");
                put_bytes(out, id);
                out.extend_from_slice(&shared.headers);
                put_bytes(out, b"ce_time");
                put_bytes(out, timestamp);
            }
            _ => {
                let headers = decoder.headers(id, body)?;
                put_varint(out, headers.len() as i64);
                put_headers(out, &headers);
            }
        }
        Ok(())
    }
}

fn put_headers(out: &mut Vec<u8>, headers: &[Header]) {
    for (name, value) in headers {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value);
    }
}
