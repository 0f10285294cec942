//! Finds the business transactions of a post, and their occurrences, without decoding them.

use std::hint::black_box;

use crate::wire::{DELIMITED, MAX_DEPTH, Reader, VARINT};

/// Tags: the field number in proto/bt.proto and the wire type.
mod tags {
    use super::{DELIMITED, VARINT};

    // BusinessTransactions
    pub const TRANSACTION: u32 = 1 << 3 | DELIMITED;
    pub const LOST: u32 = 2 << 3 | VARINT;
    pub const SERVER: u32 = 3 << 3 | DELIMITED;

    // BusinessTransaction
    pub const TYPE: u32 = 2 << 3 | VARINT;
    pub const OCCURRENCE: u32 = 6 << 3 | DELIMITED;
    /// name, application, measureNames, dimensionNames, systemProfile.
    pub const TEXTS: [u32; 5] =
        [1 << 3 | DELIMITED, 3 << 3 | DELIMITED, 4 << 3 | DELIMITED, 5 << 3 | DELIMITED, 7 << 3 | DELIMITED];
}

/// The number of values in the enum BusinessTransaction.Type. The enum is closed: other values count as unknown fields.
const TYPES: u32 = 3;
/// How many bytes to prefetch: they must fit into the cache of a core.
const PREFETCH_SIZE: usize = 1 << 19;
const CACHE_LINE: usize = 64;

/// The parts of a post.
#[derive(Default)]
pub(crate) struct Layout<'a> {
    /// The encoded business transactions.
    pub transactions: Vec<&'a [u8]>,
    /// The server name.
    pub server: Option<&'a [u8]>,
    /// lostTransactions.
    pub lost: i32,
    /// The number of unknown fields.
    pub unknown: u64,
}

impl<'a> Layout<'a> {
    /// Returns `None` if the body is malformed.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let mut layout = Self::default();
        let mut reader = Reader::new(body);
        while !reader.is_empty() {
            match reader.tag()? {
                tags::TRANSACTION => layout.transactions.push(reader.delimited()?),
                tags::LOST => layout.lost = reader.varint()? as i32,
                tags::SERVER => layout.server = Some(reader.delimited()?),
                tag => {
                    reader.skip(tag, MAX_DEPTH)?;
                    layout.unknown += 1;
                }
            }
        }
        Some(layout)
    }
}

/// Splits a business transaction into its encoded occurrences and `shared`, the encoding of its other known fields.
///
/// Returns the number of unknown fields. `None` if the transaction is malformed.
pub(crate) fn split_transaction<'a>(
    content: &'a [u8],
    occurrences: &mut Vec<&'a [u8]>,
    shared: &mut Vec<u8>,
) -> Option<u64> {
    prefetch(content);
    occurrences.clear();
    shared.clear();
    let mut unknown = 0;
    let mut reader = Reader::new(content);
    while !reader.is_empty() {
        let start = content.len() - reader.remaining();
        let tag = reader.tag()?;
        if tag == tags::OCCURRENCE {
            occurrences.push(reader.delimited()?);
            continue;
        }
        let known = if tag == tags::TYPE {
            (reader.varint()? as u32) < TYPES
        } else {
            reader.skip(tag, MAX_DEPTH - 1)?;
            tags::TEXTS.contains(&tag)
        };
        if known {
            shared.extend_from_slice(&content[start..content.len() - reader.remaining()]);
        } else {
            unknown += 1;
        }
    }
    Some(unknown)
}

/// Loads the start of `bytes` into the processor's cache. Finding the occurrences means jumping from length to length, and
/// each jump would wait for memory.
fn prefetch(bytes: &[u8]) {
    let start = &bytes[..bytes.len().min(PREFETCH_SIZE)];
    black_box(start.iter().step_by(CACHE_LINE).fold(0, |found, byte| found ^ byte));
}
