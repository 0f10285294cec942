//! Is it a post, and within the limits? The twin of `admit` in btfeed/post.py, in one walk.
//!
//! The twin walks the outline, counts, parses and looks for required fields, one after the other. Here each field is
//! passed once; whatever the twin would refuse gives `None`.

use crate::wire::{DELIMITED, MAX_DEPTH, Reader};

const START_GROUP: u32 = 3;
/// Tags: the number of a field in proto/bt.proto and its wire type.
const TRANSACTION: u32 = 1 << 3 | DELIMITED;
const NAME: u32 = 1 << 3 | DELIMITED;
const OCCURRENCE: u32 = 6 << 3 | DELIMITED;
const START_TIME: u32 = 1 << 3;
const VALUES: u32 = 6 << 3 | DELIMITED;
const EMPTY_DIMENSION: &[u8] = b"\x3a\x00";
const EMPTY_CONVERTED_BY: &[u8] = b"\xa2\x02\x00";

/// How many of everything a post may have. btfeed/post.py says what each means.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Occurrences, and business transactions.
    pub occurrences: u64,
    /// Names, fields of long occurrences, empty dimensions.
    pub elements: u64,
    /// Bytes that records repeat.
    pub shared: u64,
    /// Bytes of an occurrence from which on what is in it counts.
    pub long: usize,
}

/// The number of occurrences in an acceptable `body`.
#[must_use]
pub fn admit(body: &[u8], limits: &Limits) -> Option<u64> {
    if body.len() as u64 > limits.elements.saturating_mul(2) {
        let empty = occurs(body, EMPTY_DIMENSION) + occurs(body, EMPTY_CONVERTED_BY);
        if empty > limits.elements {
            return None;
        }
    }
    let mut outline = Outline { limits, occurrences: 0, elements: 0, shared: 0 };
    outline.walk(body)?;
    Some(outline.occurrences)
}

/// How often `needle` is in `body`; it does not overlap itself.
fn occurs(body: &[u8], needle: &[u8]) -> u64 {
    body.windows(needle.len()).filter(|window| *window == needle).count() as u64
}

struct Outline<'l> {
    limits: &'l Limits,
    occurrences: u64,
    elements: u64,
    shared: u64,
}

impl Outline<'_> {
    fn walk(&mut self, body: &[u8]) -> Option<()> {
        let mut reader = Reader::new(body);
        let (mut transactions, mut shared) = (0, 0);
        while !reader.at_end() {
            let before = reader.left();
            let tag = reader.tag()?;
            if tag == TRANSACTION {
                transactions += 1;
                if transactions > self.limits.occurrences {
                    return None;
                }
                self.walk_transaction(reader.delimited()?)?;
            } else {
                self.skip(&mut reader, tag, MAX_DEPTH)?;
                shared += (before - reader.left()) as u64;
            }
        }
        self.share(shared, self.occurrences)
    }

    fn walk_transaction(&mut self, content: &[u8]) -> Option<()> {
        let mut reader = Reader::new(content);
        let (mut named, mut shared) = (false, 0);
        let first = self.occurrences;
        while !reader.at_end() {
            let before = reader.left();
            let tag = reader.tag()?;
            if tag == OCCURRENCE {
                self.occurrences += 1;
                let occurrence = reader.delimited()?;
                if self.occurrences > self.limits.occurrences || !self.walk_occurrence(occurrence)? {
                    return None;
                }
            } else {
                named |= tag == NAME;
                self.skip(&mut reader, tag, MAX_DEPTH - 1)?;
                shared += (before - reader.left()) as u64;
            }
        }
        self.share(shared, self.occurrences - first)?;
        named.then_some(())
    }

    /// Whether it has its startTime.
    fn walk_occurrence(&mut self, content: &[u8]) -> Option<bool> {
        let mut reader = Reader::new(content);
        let long = content.len() >= self.limits.long;
        let mut started = false;
        while !reader.at_end() {
            let before = reader.left();
            let tag = reader.tag()?;
            started |= tag == START_TIME;
            if tag == VALUES {
                if reader.delimited()?.len() % 8 != 0 {
                    return None;
                }
                if long {
                    self.count(1 + (before - reader.left()) as u64 / 8)?;
                }
            } else if long {
                self.skip(&mut reader, tag, MAX_DEPTH - 2)?;
            } else {
                reader.skip(tag, MAX_DEPTH - 2)?;
            }
        }
        Some(started)
    }

    /// Passes a field and counts it; of a group, all that is in it.
    fn skip(&mut self, reader: &mut Reader<'_>, tag: u32, depth: usize) -> Option<()> {
        self.count(1)?;
        if tag & 7 == START_GROUP {
            return reader.skip_group(tag, depth, |_, _| self.count(1));
        }
        reader.skip(tag, depth)
    }

    fn count(&mut self, elements: u64) -> Option<()> {
        self.elements += elements;
        (self.elements <= self.limits.elements).then_some(())
    }

    fn share(&mut self, size: u64, occurrences: u64) -> Option<()> {
        self.shared = self.shared.saturating_add(size.saturating_mul(occurrences));
        (self.shared <= self.limits.shared).then_some(())
    }
}
