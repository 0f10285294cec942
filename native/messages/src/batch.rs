//! Record batches: Kafka's documentation, "Message Format", magic 2. The bytes are those of aiokafka's own builder.

use std::sync::{Arc, Mutex};

use zstd::bulk::Compressor;
use zstd::zstd_safe::{self, CParameter};

use crate::columns::Column;
use crate::envelope::{Known, Reader, Shared};
use crate::varint::{framed_size, put_bytes, put_varint, varint_size};

/// Bytes of a batch before its records.
pub const HEAD: usize = 61;
/// Where that begins which the length counts, the checksum, and what the checksum is of.
const AFTER_LENGTH: usize = 12;
const CHECKSUM: usize = 17;
const ATTRIBUTES: usize = 21;
const MAGIC: u8 = 2;
/// The attribute of a batch that is compressed by zstd.
const ZSTD: i16 = 4;
/// Records of one lane are much alike. Level 1, but looking for longer matches in a table that stays in the processor's
/// nearest memory, takes half the time of level 3, and finds more (docs/sinks/kafka.md, "Compression").
const LEVEL: i32 = 1;
const PARAMETERS: [CParameter; 2] = [CParameter::MinMatch(6), CParameter::HashLog(12)];

/// The records of a write, as columns of equal length.
pub struct Messages<'a> {
    /// event.id.
    pub ids: Column<'a>,
    /// The keys of the messages.
    pub keys: Column<'a>,
    /// The records as JSON.
    pub bodies: Column<'a>,
    /// The values of the messages, where those are not the bodies.
    pub values: Option<Column<'a>>,
    /// Milliseconds since the epoch.
    pub timestamps: Times<'a>,
}

/// The timestamps of messages.
pub enum Times<'a> {
    /// All have the same.
    One(i64),
    /// Each has its own.
    Each(&'a [i64]),
}

impl Times<'_> {
    fn get(&self, index: usize) -> i64 {
        match self {
            Self::One(time) => *time,
            Self::Each(times) => times[index],
        }
    }
}

/// Records one behind the other, with room for the head before them.
pub struct Batch {
    bytes: Vec<u8>,
    attributes: i16,
    count: i32,
    first: i64,
    latest: i64,
}

impl Batch {
    /// How many records there are.
    #[must_use]
    pub fn count(&self) -> i32 {
        self.count
    }

    /// The records.
    #[must_use]
    pub fn records(&self) -> &[u8] {
        &self.bytes[HEAD..]
    }

    /// Compressed by somebody else, whose codec has that number.
    pub fn replace(&mut self, codec: i16, compressed: &[u8]) {
        self.bytes.truncate(HEAD);
        self.bytes.extend_from_slice(compressed);
        self.attributes = codec;
    }

    /// The whole batch, of that producer and with that sequence number.
    pub fn seal(&mut self, producer: i64, epoch: i16, sequence: i32) -> &[u8] {
        let length = (self.bytes.len() - AFTER_LENGTH) as i32;
        let mut head = Vec::with_capacity(HEAD);
        head.extend_from_slice(&0_i64.to_be_bytes()); // the first offset: the broker sets it
        head.extend_from_slice(&length.to_be_bytes());
        head.extend_from_slice(&(-1_i32).to_be_bytes()); // the leader's epoch: likewise
        head.push(MAGIC);
        head.extend_from_slice(&[0; ATTRIBUTES - CHECKSUM]);
        head.extend_from_slice(&self.attributes.to_be_bytes());
        head.extend_from_slice(&(self.count - 1).to_be_bytes());
        head.extend_from_slice(&self.first.to_be_bytes());
        head.extend_from_slice(&self.latest.to_be_bytes());
        head.extend_from_slice(&producer.to_be_bytes());
        head.extend_from_slice(&epoch.to_be_bytes());
        head.extend_from_slice(&sequence.to_be_bytes());
        head.extend_from_slice(&self.count.to_be_bytes());
        self.bytes[..HEAD].copy_from_slice(&head);
        let checksum = crc32c::crc32c(&self.bytes[ATTRIBUTES..]);
        self.bytes[CHECKSUM..ATTRIBUTES].copy_from_slice(&checksum.to_be_bytes());
        &self.bytes
    }
}

/// Memory and a compressor, to be used again: fresh pages cost more than to fill them.
struct Bench {
    records: Vec<u8>,
    headers: Vec<u8>,
    compressed: Vec<u8>,
    compressor: Compressor<'static>,
}

impl Bench {
    fn new() -> Self {
        let mut compressor = Compressor::new(LEVEL).expect("zstd has that level");
        for parameter in PARAMETERS {
            compressor.set_parameter(parameter).expect("zstd has that parameter");
        }
        Self { records: Vec::new(), headers: Vec::new(), compressed: Vec::new(), compressor }
    }
}

/// Writes batches. Several threads may use it.
#[derive(Default)]
pub struct Writer {
    /// The business transactions that are known.
    pub known: Known,
    free: Mutex<Vec<Bench>>,
}

/// What is wanted of a batch.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Fewer bytes than these, before compression, as with aiokafka; one record alone may be more.
    pub limit: usize,
    /// With headers.
    pub headers: bool,
    /// Compressed by zstd.
    pub zstd: bool,
}

impl Writer {
    /// A batch of the messages at `indexes`, as many as there is room for.
    pub fn write<R: Reader>(
        &self,
        reader: &R,
        messages: &Messages<'_>,
        indexes: &[u32],
        wanted: Wanted,
    ) -> Result<Batch, R::Error> {
        let mut bench = self.benches().pop().unwrap_or_else(Bench::new);
        let batch = fill(&mut bench, &self.known, reader, messages, indexes, wanted);
        self.benches().push(bench);
        batch
    }

    fn benches(&self) -> std::sync::MutexGuard<'_, Vec<Bench>> {
        self.free.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

fn fill<R: Reader>(
    bench: &mut Bench,
    known: &Known,
    reader: &R,
    messages: &Messages<'_>,
    indexes: &[u32],
    wanted: Wanted,
) -> Result<Batch, R::Error> {
    let Bench { records, headers, compressed, compressor } = bench;
    records.clear();
    let first = indexes.first().map_or(0, |&index| messages.timestamps.get(index as usize));
    let mut latest = first;
    let mut last = Arc::new(Shared::default());
    let mut count = 0_i32;
    for &index in indexes {
        let index = index as usize;
        let (key, body) = (messages.keys.get(index), messages.bodies.get(index));
        let value = messages.values.as_ref().map_or(body, |values| values.get(index));
        headers.clear();
        if wanted.headers {
            known.headers(reader, messages.ids.get(index), body, &mut last, headers)?;
        } else {
            put_varint(headers, 0);
        }
        let time = messages.timestamps.get(index);
        let (delta, offset) = (time.wrapping_sub(first), i64::from(count));
        let length = 1 + varint_size(delta) + varint_size(offset) + framed_size(key) + framed_size(value) + headers.len();
        let whole = varint_size(length as i64) + length;
        if count > 0 && HEAD + records.len() + whole >= wanted.limit {
            break;
        }
        records.reserve(whole);
        put_varint(records, length as i64);
        records.push(0); // attributes: there are none
        put_varint(records, delta);
        put_varint(records, offset);
        put_bytes(records, key);
        put_bytes(records, value);
        records.extend_from_slice(headers);
        latest = latest.max(time);
        count += 1;
    }
    let mut attributes = 0;
    let mut found = &*records;
    if wanted.zstd {
        compressed.clear();
        compressed.reserve(zstd_safe::compress_bound(records.len()));
        if compressor.compress_to_buffer(records, compressed).is_ok() && compressed.len() < records.len() {
            (found, attributes) = (&*compressed, ZSTD);
        }
    }
    let mut bytes = Vec::with_capacity(HEAD + found.len());
    bytes.resize(HEAD, 0);
    bytes.extend_from_slice(found);
    Ok(Batch { bytes, attributes, count, first, latest })
}
