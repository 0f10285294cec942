//! Builds Kafka record batches from JSON records.
//!
//! The Python implementation in sinks/kafka, which uses the batch builder of aiokafka, is the reference: both must produce
//! the same bytes before compression. The modules, in reading order:
//!
//! - `columns`: byte strings in the memory that Python hands over.
//! - `partition`: the partition of each record, with the hash in `murmur2`.
//! - `envelope`: the CloudEvents headers of each message.
//! - `batch`: writes, compresses and seals record batches, with the integers in `varint`.
#![forbid(unsafe_code)]

pub mod batch;
pub mod columns;
pub mod envelope;
pub mod murmur2;
pub mod partition;
mod varint;
