//! From records to Kafka's record batches: what sinks/_kafka_messages.py and aiokafka's own builder do, at memory speed.
//!
//! Those are the plain twins. They say what is right, and both must give the same bytes. To read it:
//!
//! - `partition` decides which partition each record goes to, with the hash in `murmur2`;
//! - `columns` holds the columns of a batch of records, where they stand in memory;
//! - `envelope` makes the headers of a message, with what Python found out once for each business transaction;
//! - `batch` writes messages one behind the other, compresses and seals them.
#![forbid(unsafe_code)]

pub mod batch;
pub mod columns;
pub mod envelope;
pub mod murmur2;
pub mod partition;
mod varint;
