//! Decides whether a body is a valid post within the limits. The counterpart of `admit` in btfeed/posts/admission.py.
//!
//! The Python implementation counts, parses and looks for required fields in separate passes. This one visits each field
//! once.

use crate::wire::{DELIMITED, MAX_DEPTH, Reader};

const START_GROUP: u32 = 3;
// Tags: the field number in proto/bt.proto and the wire type.
const TRANSACTION: u32 = 1 << 3 | DELIMITED;
const NAME: u32 = 1 << 3 | DELIMITED;
const OCCURRENCE: u32 = 6 << 3 | DELIMITED;
const START_TIME: u32 = 1 << 3;
const VALUES: u32 = 6 << 3 | DELIMITED;
const EMPTY_DIMENSION: &[u8] = b"\x3a\x00";
const EMPTY_CONVERTED_BY: &[u8] = b"\xa2\x02\x00";

/// The limits on a post. btfeed/posts/admission.py sets them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The number of occurrences, and the number of business transactions.
    pub occurrences: u64,
    /// The number of names, fields of long occurrences, and empty dimensions.
    pub elements: u64,
    /// The size in bytes of what records repeat, over all records.
    pub shared: u64,
    /// The size in bytes from which on an occurrence is long, so that its fields count as elements.
    pub long: usize,
}

/// Returns the number of occurrences in `body`. `None` if it is not a valid post, or exceeds a limit.
#[must_use]
pub fn admit(body: &[u8], limits: &Limits) -> Option<u64> {
    if body.len() as u64 > limits.elements.saturating_mul(2) {
        let empty = count(body, EMPTY_DIMENSION) + count(body, EMPTY_CONVERTED_BY);
        if empty > limits.elements {
            return None;
        }
    }
    let mut visitor = Visitor { limits, occurrences: 0, elements: 0, shared: 0 };
    visitor.visit_post(body)?;
    Some(visitor.occurrences)
}

/// Counts `needle` in `body`. Assumes that `needle` can't overlap itself.
fn count(body: &[u8], needle: &[u8]) -> u64 {
    body.windows(needle.len()).filter(|window| *window == needle).count() as u64
}

/// Visits a post and counts. Methods return `None` if the post is invalid or exceeds a limit.
struct Visitor<'l> {
    limits: &'l Limits,
    occurrences: u64,
    elements: u64,
    shared: u64,
}

impl Visitor<'_> {
    fn visit_post(&mut self, body: &[u8]) -> Option<()> {
        let mut reader = Reader::new(body);
        let (mut transactions, mut shared) = (0, 0);
        while !reader.is_empty() {
            let before = reader.remaining();
            let tag = reader.tag()?;
            if tag == TRANSACTION {
                transactions += 1;
                if transactions > self.limits.occurrences {
                    return None;
                }
                self.visit_transaction(reader.delimited()?)?;
            } else {
                self.skip(&mut reader, tag, MAX_DEPTH)?;
                shared += (before - reader.remaining()) as u64;
            }
        }
        self.add_shared(shared, self.occurrences)
    }

    fn visit_transaction(&mut self, content: &[u8]) -> Option<()> {
        let mut reader = Reader::new(content);
        let (mut has_name, mut shared) = (false, 0);
        let first = self.occurrences;
        while !reader.is_empty() {
            let before = reader.remaining();
            let tag = reader.tag()?;
            if tag == OCCURRENCE {
                self.occurrences += 1;
                let occurrence = reader.delimited()?;
                if self.occurrences > self.limits.occurrences || !self.visit_occurrence(occurrence)? {
                    return None;
                }
            } else {
                has_name |= tag == NAME;
                self.skip(&mut reader, tag, MAX_DEPTH - 1)?;
                shared += (before - reader.remaining()) as u64;
            }
        }
        self.add_shared(shared, self.occurrences - first)?;
        has_name.then_some(())
    }

    /// Returns whether the occurrence has a startTime.
    fn visit_occurrence(&mut self, content: &[u8]) -> Option<bool> {
        let mut reader = Reader::new(content);
        let long = content.len() >= self.limits.long;
        let mut has_start_time = false;
        while !reader.is_empty() {
            let before = reader.remaining();
            let tag = reader.tag()?;
            has_start_time |= tag == START_TIME;
            if tag == VALUES {
                if reader.delimited()?.len() % 8 != 0 {
                    return None;
                }
                if long {
                    self.add_elements(1 + (before - reader.remaining()) as u64 / 8)?;
                }
            } else if long {
                self.skip(&mut reader, tag, MAX_DEPTH - 2)?;
            } else {
                reader.skip(tag, MAX_DEPTH - 2)?;
            }
        }
        Some(has_start_time)
    }

    /// Skips a field and counts it. For a group, counts every field inside.
    fn skip(&mut self, reader: &mut Reader<'_>, tag: u32, depth: usize) -> Option<()> {
        self.add_elements(1)?;
        if tag & 7 == START_GROUP {
            return reader.skip_group(tag, depth, || self.add_elements(1));
        }
        reader.skip(tag, depth)
    }

    fn add_elements(&mut self, count: u64) -> Option<()> {
        self.elements += count;
        (self.elements <= self.limits.elements).then_some(())
    }

    /// Counts `size` bytes that each of `occurrences` records repeats.
    fn add_shared(&mut self, size: u64, occurrences: u64) -> Option<()> {
        self.shared = self.shared.saturating_add(size.saturating_mul(occurrences));
        (self.shared <= self.limits.shared).then_some(())
    }
}
