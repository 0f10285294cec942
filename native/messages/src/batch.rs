//! Record batches of magic 2, as Kafka's documentation describes them under "Message Format".

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zstd::bulk::Compressor;
use zstd::zstd_safe::{self, CParameter};

use crate::columns::Column;
use crate::envelope::{Cache, Decoder, Shared};
use crate::varint::{framed_size, put_bytes, put_varint, varint_size};

/// The size of the batch header, which precedes the records.
const HEADER_SIZE: usize = 61;
/// The offset after the length field. The length counts the bytes from here on.
const AFTER_LENGTH: usize = 12;
const CHECKSUM: usize = 17;
/// The offset of the attributes. The checksum covers the bytes from here on.
const ATTRIBUTES: usize = 21;
const MAGIC: u8 = 2;
/// The codec number of zstd.
const ZSTD: i16 = 4;
/// Records of one partition are much alike. Level 1 with a longer minimum match and a hash table that fits into the
/// first-level cache takes half the time of level 3, and compresses better (docs/sinks/kafka.md, "Compression").
const LEVEL: i32 = 1;
const PARAMETERS: [CParameter; 2] = [CParameter::MinMatch(6), CParameter::HashLog(12)];

/// The records of one write, as columns of equal length.
pub struct Messages<'a> {
    /// The `event.id` of each record.
    pub ids: Column<'a>,
    /// The message keys.
    pub keys: Column<'a>,
    /// The records as JSON.
    pub bodies: Column<'a>,
    /// The message values. `None` if they are the bodies.
    pub values: Option<Column<'a>>,
    /// The message timestamps.
    pub timestamps: Timestamps<'a>,
}

/// Message timestamps, in milliseconds since the epoch.
pub enum Timestamps<'a> {
    /// All messages have the same timestamp.
    Same(i64),
    /// The timestamp of each message.
    Each(&'a [i64]),
}

impl Timestamps<'_> {
    #[inline]
    fn get(&self, index: usize) -> i64 {
        match self {
            Self::Same(timestamp) => *timestamp,
            Self::Each(timestamps) => timestamps[index],
        }
    }
}

/// A record batch. Its header is written by `seal`.
pub struct Batch {
    bytes: Vec<u8>, // space for the header, then the records
    codec: i16,
    count: i32,
    first_timestamp: i64,
    max_timestamp: i64,
}

impl Batch {
    /// Returns the number of records.
    #[must_use]
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Returns the encoded records, compressed if the batch is.
    #[must_use]
    pub fn records(&self) -> &[u8] {
        &self.bytes[HEADER_SIZE..]
    }

    /// Replaces the records with the same ones, compressed by the codec that has this number in Kafka's protocol.
    pub fn replace(&mut self, codec: i16, compressed: &[u8]) {
        self.bytes.truncate(HEADER_SIZE);
        self.bytes.extend_from_slice(compressed);
        self.codec = codec;
    }

    /// Writes the header, and returns the batch as it is sent. May be called again with other numbers.
    pub fn seal(&mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> &[u8] {
        let length = (self.bytes.len() - AFTER_LENGTH) as i32;
        let mut header = Vec::with_capacity(HEADER_SIZE);
        header.extend_from_slice(&0_i64.to_be_bytes()); // base offset: set by the broker
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(&(-1_i32).to_be_bytes()); // partition leader epoch: set by the broker
        header.push(MAGIC);
        header.extend_from_slice(&[0; ATTRIBUTES - CHECKSUM]);
        header.extend_from_slice(&self.codec.to_be_bytes());
        header.extend_from_slice(&(self.count - 1).to_be_bytes());
        header.extend_from_slice(&self.first_timestamp.to_be_bytes());
        header.extend_from_slice(&self.max_timestamp.to_be_bytes());
        header.extend_from_slice(&producer_id.to_be_bytes());
        header.extend_from_slice(&producer_epoch.to_be_bytes());
        header.extend_from_slice(&base_sequence.to_be_bytes());
        header.extend_from_slice(&self.count.to_be_bytes());
        self.bytes[..HEADER_SIZE].copy_from_slice(&header);
        let checksum = crc32c::crc32c(&self.bytes[ATTRIBUTES..]);
        self.bytes[CHECKSUM..ATTRIBUTES].copy_from_slice(&checksum.to_be_bytes());
        &self.bytes
    }
}

/// How to write a batch.
#[derive(Clone, Copy)]
pub struct Options {
    /// The batch stays below this size in bytes before compression, as with aiokafka. A single record may exceed it.
    pub limit: usize,
    /// Whether messages have headers.
    pub headers: bool,
    /// Whether to compress with zstd.
    pub zstd: bool,
}

/// Writes batches. Several threads may share it.
#[derive(Default)]
pub struct Writer {
    cache: Cache,
    free: Mutex<Vec<Scratch>>,
}

impl Writer {
    /// Writes a batch of the messages at `indexes`: the first one, and as many of the following as fit.
    pub fn write<D: Decoder>(
        &self,
        decoder: &D,
        messages: &Messages<'_>,
        indexes: &[u32],
        options: Options,
    ) -> Result<Batch, D::Error> {
        let mut scratch = self.free().pop().unwrap_or_else(Scratch::new);
        let batch = write_records(&mut scratch, &self.cache, decoder, messages, indexes, options)
            .map(|written| finish(&mut scratch, &written, options.zstd));
        self.free().push(scratch);
        batch
    }

    /// Returns the `event.name` of each record: all names concatenated, and the length of each.
    pub fn names<D: Decoder>(
        &self,
        decoder: &D,
        ids: &Column<'_>,
        bodies: &Column<'_>,
    ) -> Result<(Vec<u8>, Vec<i64>), D::Error> {
        let (mut names, mut lengths) = (Vec::new(), Vec::with_capacity(ids.len()));
        let mut last = Arc::default();
        for index in 0..ids.len() {
            let name = self.cache.name(decoder, ids.get(index), bodies.get(index), &mut last)?;
            lengths.push(name.len() as i64);
            names.extend_from_slice(&name);
        }
        Ok((names, lengths))
    }

    fn free(&self) -> MutexGuard<'_, Vec<Scratch>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Buffers and a compressor, reused between batches: page faults in fresh memory cost more than writing the records.
struct Scratch {
    records: Vec<u8>,
    headers: Vec<u8>,
    compressed: Vec<u8>,
    compressor: Compressor<'static>,
}

impl Scratch {
    fn new() -> Self {
        let mut compressor = Compressor::new(LEVEL).expect("zstd has this level");
        for parameter in PARAMETERS {
            compressor.set_parameter(parameter).expect("zstd has this parameter");
        }
        Self { records: Vec::new(), headers: Vec::new(), compressed: Vec::new(), compressor }
    }
}

/// What a batch header says of the records.
struct Written {
    count: i32,
    first_timestamp: i64,
    max_timestamp: i64,
}

/// Writes records to `scratch.records` until the next one would exceed the limit.
fn write_records<D: Decoder>(
    scratch: &mut Scratch,
    cache: &Cache,
    decoder: &D,
    messages: &Messages<'_>,
    indexes: &[u32],
    options: Options,
) -> Result<Written, D::Error> {
    let Scratch { records, headers, .. } = scratch;
    records.clear();
    let first_timestamp = indexes.first().map_or(0, |&index| messages.timestamps.get(index as usize));
    let mut written = Written { count: 0, first_timestamp, max_timestamp: first_timestamp };
    let mut last = Arc::new(Shared::default());
    for &index in indexes {
        let index = index as usize;
        let (key, body) = (messages.keys.get(index), messages.bodies.get(index));
        let value = messages.values.as_ref().map_or(body, |values| values.get(index));
        headers.clear();
        if options.headers {
            cache.put_headers(decoder, messages.ids.get(index), body, &mut last, headers)?;
        } else {
            put_varint(headers, 0);
        }
        let timestamp = messages.timestamps.get(index);
        let (delta, offset) = (timestamp.wrapping_sub(first_timestamp), i64::from(written.count));
        let length = 1 + varint_size(delta) + varint_size(offset) + framed_size(key) + framed_size(value) + headers.len();
        let size = varint_size(length as i64) + length;
        if written.count > 0 && HEADER_SIZE + records.len() + size >= options.limit {
            break;
        }
        records.reserve(size);
        put_varint(records, length as i64);
        records.push(0); // attributes: unused
        put_varint(records, delta);
        put_varint(records, offset);
        put_bytes(records, key);
        put_bytes(records, value);
        records.extend_from_slice(headers);
        written.max_timestamp = written.max_timestamp.max(timestamp);
        written.count += 1;
    }
    Ok(written)
}

/// Creates a batch of the records in `scratch`. Compresses them if `zstd` is set and they get smaller.
fn finish(scratch: &mut Scratch, written: &Written, zstd: bool) -> Batch {
    let Scratch { records, compressed, compressor, .. } = scratch;
    let mut codec = 0;
    let mut content = &*records;
    if zstd {
        compressed.clear();
        compressed.reserve(zstd_safe::compress_bound(records.len()));
        if compressor.compress_to_buffer(records, compressed).is_ok() && compressed.len() < records.len() {
            (content, codec) = (&*compressed, ZSTD);
        }
    }
    let mut bytes = Vec::with_capacity(HEADER_SIZE + content.len());
    bytes.resize(HEADER_SIZE, 0);
    bytes.extend_from_slice(content);
    let Written { count, first_timestamp, max_timestamp } = *written;
    Batch { bytes, codec, count, first_timestamp, max_timestamp }
}
