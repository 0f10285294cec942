//! The headers of messages: CloudEvents' binary mode, as sinks/_cloud_events.py says it.
//!
//! What stands between a record's event.id and its timestamp is the same for all records of a business transaction, so that
//! is compared; Python reads one record of each. Where a record is laid out otherwise, Python is asked for its headers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::varint::{put_bytes, put_varint};

/// What records begin with; event.id comes next.
pub const BEGINNING: &[u8] = br#"{"event.kind":"BIZ_EVENT","event.id":""#;
const TIME: &[u8] = br#","timestamp":""#;
const TIME_SIZE: usize = "2026-01-31T12:00:00.000Z".len();
/// Business transactions that are remembered.
const MAX_KNOWN: usize = 10_000;
/// Bytes of what is remembered of one: names may be as long as a post.
const MAX_TEXT: usize = 1 << 12;
/// ce_id, type, source, specversion, content-type, ce_time.
const HEADERS: i64 = 6;

/// A header's name and value.
pub type Header = (String, Vec<u8>);

/// What all records of a business transaction have in common.
#[derive(Default)]
pub struct Shared {
    /// What stands between event.id and the timestamp, both of which it touches. Empty where the record is laid out otherwise.
    pub text: Vec<u8>,
    /// event.name, empty where it is not in `text`.
    pub name: Vec<u8>,
    /// The headers between ce_id and ce_time, as messages have them.
    pub headers: Vec<u8>,
}

impl Shared {
    /// With these headers.
    #[must_use]
    pub fn new(text: Vec<u8>, name: Vec<u8>, headers: &[Header]) -> Self {
        let mut shared = Self { text, name, headers: Vec::new() };
        put_headers(&mut shared.headers, headers);
        shared
    }
}

/// Reads what is not known yet.
pub trait Reader {
    /// Why it could not.
    type Error;

    /// What the record has in common with others.
    fn shared(&self, id: &[u8], body: &[u8]) -> Result<Shared, Self::Error>;
    /// All headers of the record.
    fn headers(&self, id: &[u8], body: &[u8]) -> Result<Vec<Header>, Self::Error>;
    /// The record's event.name.
    fn name(&self, id: &[u8], body: &[u8]) -> Result<Vec<u8>, Self::Error>;
}

/// The business transactions that are known.
#[derive(Default)]
pub struct Known {
    by_text: Mutex<HashMap<Vec<u8>, Arc<Shared>>>,
}

impl Known {
    /// What a record shares with others; `last`: what its predecessor did. `last` is changed to it where it is laid out as usual.
    pub fn find<R: Reader>(
        &self,
        reader: &R,
        id: &[u8],
        body: &[u8],
        last: &mut Arc<Shared>,
    ) -> Result<Arc<Shared>, R::Error> {
        let rest = body.get(BEGINNING.len() + id.len()..).unwrap_or_default();
        if !last.text.is_empty() && rest.starts_with(&last.text) {
            return Ok(Arc::clone(last));
        }
        let end = rest.windows(TIME.len()).position(|window| window == TIME).map(|at| at + TIME.len());
        if let Some(found) = end.and_then(|end| self.map().get(&rest[..end]).map(Arc::clone)) {
            *last = Arc::clone(&found);
            return Ok(found);
        }
        let found = Arc::new(reader.shared(id, body)?); // nothing is locked while Python works
        if !found.text.is_empty() {
            if found.text.len() <= MAX_TEXT {
                let mut map = self.map();
                if map.len() >= MAX_KNOWN {
                    map.clear();
                }
                map.insert(found.text.clone(), Arc::clone(&found));
            }
            *last = Arc::clone(&found);
        }
        Ok(found)
    }

    fn map(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<Shared>>> {
        self.by_text.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    /// The record's event.name.
    pub fn name<R: Reader>(&self, reader: &R, id: &[u8], body: &[u8], last: &mut Arc<Shared>) -> Result<Vec<u8>, R::Error> {
        let shared = self.find(reader, id, body, last)?;
        if shared.name.is_empty() { reader.name(id, body) } else { Ok(shared.name.clone()) }
    }

    /// Writes the record's headers, and how many they are, into `out`, which is empty.
    pub fn headers<R: Reader>(
        &self,
        reader: &R,
        id: &[u8],
        body: &[u8],
        last: &mut Arc<Shared>,
        out: &mut Vec<u8>,
    ) -> Result<(), R::Error> {
        let shared = self.find(reader, id, body, last)?;
        let start = BEGINNING.len() + id.len() + shared.text.len();
        let time = body.get(start..start + TIME_SIZE);
        match time {
            Some(time) if !shared.text.is_empty() && body.get(start + TIME_SIZE) == Some(&b'"') => {
                put_varint(out, HEADERS);
                put_bytes(out, b"ce_id");
                put_bytes(out, id);
                out.extend_from_slice(&shared.headers);
                put_bytes(out, b"ce_time");
                put_bytes(out, time);
            }
            _ => {
                let headers = reader.headers(id, body)?;
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
