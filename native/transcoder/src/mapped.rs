//! The result of mapping a post.

use std::sync::Arc;

use crate::layout::Layout;
use crate::plan::Plan;
use crate::pool::Pool;
use crate::record::{Issues, Span};
use crate::table::{CATEGORIES, FIELDS};

/// The size in bytes up to which the records of a post are copied behind those of the post before it: to keep them apart
/// would cost more.
const SMALL: usize = 1 << 14;
/// The size in bytes of a buffer that the records of small posts are copied to.
const SHARED: usize = 1 << 18;

/// Records in a buffer, of which only the first `length` bytes count.
pub struct Part {
    /// The buffer.
    pub bytes: Vec<u8>,
    /// The size in bytes of the records.
    pub length: usize,
}

/// The records of a post, or of a run of posts in a row, and what was noticed about it.
pub struct Mapped<P> {
    /// The delivered records, one JSON object and a newline each. At least one part.
    pub parts: Vec<Part>,
    /// The size in bytes of all records.
    pub length: usize,
    /// The size in bytes of each record, with its newline.
    pub sizes: Vec<i64>,
    /// The startTime of each record.
    pub timestamps: Vec<i64>,
    /// The position of each `event.id` in the records.
    pub ids: Vec<Span>,
    /// The position of each key in the records.
    pub keys: Vec<Span>,
    /// The number of records up to the end of each post.
    pub ends: Vec<usize>,
    /// The business transactions, in the order of the records.
    pub transactions: Vec<TransactionSummary<P>>,
    /// The refused occurrences.
    pub refused: Vec<RefusedRecord>,
    /// Problems with values.
    pub issues: Issues,
    /// For measures and dimensions, the numbers of occurrences with fewer and with more of them than names.
    pub mismatches: [[u64; 2]; 2],
    /// The numbers of unknown fields in the post, in its business transactions and in their occurrences.
    pub unknown: [u64; 3],
    /// lostTransactions, or 0 if that is negative.
    pub lost: u64,
}

impl<P> Mapped<P> {
    /// Creates the result of a post without occurrences.
    pub(crate) fn new(layout: &Layout<'_>) -> Self {
        Self {
            parts: Vec::with_capacity(1),
            length: 0,
            sizes: Vec::new(),
            timestamps: Vec::new(),
            ids: Vec::new(),
            keys: Vec::new(),
            ends: Vec::new(),
            transactions: Vec::with_capacity(layout.transactions.len()),
            refused: Vec::new(),
            issues: Issues::default(),
            mismatches: [[0; 2]; 2],
            unknown: [layout.unknown, 0, 0],
            lost: u64::try_from(layout.lost).unwrap_or(0),
        }
    }

    /// Makes room for more records.
    pub(crate) fn reserve(&mut self, records: usize) {
        self.sizes.reserve(records);
        self.timestamps.reserve(records);
        self.ids.reserve(records);
        self.keys.reserve(records);
    }

    /// Returns the number of occurrences in each category.
    #[must_use]
    pub fn occurrences(&self) -> [u64; CATEGORIES] {
        let mut counts = [0; CATEGORIES];
        for transaction in &self.transactions {
            counts[transaction.plan.category] += transaction.occurrences;
        }
        counts
    }

    /// Whether `next` can be joined: what is refused belongs to a post that is alone.
    #[must_use]
    pub fn joins(&self, next: &Self, max_size: usize) -> bool {
        self.length + next.length <= max_size && self.refused.is_empty() && next.refused.is_empty()
    }

    /// Adds the records of the posts that follow. Call it if `next` joins, and `shrink` after the last one.
    pub fn join(&mut self, mut next: Self, pool: &Pool) {
        let (start, records) = (self.length, self.sizes.len());
        self.length += next.length;
        for part in next.parts {
            self.join_part(part, pool);
        }
        self.sizes.append(&mut next.sizes);
        self.timestamps.append(&mut next.timestamps);
        self.ids.extend(next.ids.iter().map(|&(at, length)| (start + at, length)));
        self.keys.extend(next.keys.iter().map(|&(at, length)| (start + at, length)));
        self.ends.extend(next.ends.iter().map(|end| records + end));
        for transaction in next.transactions {
            match self.transactions.last_mut() {
                Some(last) if Arc::ptr_eq(&last.plan, &transaction.plan) => last.join(&transaction),
                _ => self.transactions.push(transaction),
            }
        }
        for (name, count) in next.issues.left_out {
            *self.issues.left_out.entry(name).or_default() += count;
        }
        self.issues.invalid_utf8 += next.issues.invalid_utf8;
        add(self.mismatches.as_flattened_mut(), next.mismatches.as_flattened());
        add(&mut self.unknown, &next.unknown);
        self.lost += next.lost;
    }

    /// Adds a part, or copies it behind the last one if both are small.
    fn join_part(&mut self, next: Part, pool: &Pool) {
        let Some(last) = self.parts.last_mut() else { return self.parts.push(next) };
        let (start, end) = (last.length, last.length + next.length);
        let fits = end <= last.bytes.len();
        if next.length > SMALL || end > SHARED || !(fits || start <= SMALL) {
            return self.parts.push(next);
        }
        if !fits {
            let mut bytes = pool.take(SHARED);
            bytes[..start].copy_from_slice(&last.bytes[..start]);
            pool.give_back(std::mem::replace(&mut last.bytes, bytes));
        }
        last.bytes[start..end].copy_from_slice(&next.bytes[..next.length]);
        last.length = end;
        pool.give_back(next.bytes);
    }

    /// Gives back memory that was taken for posts to join.
    pub fn shrink(&mut self, pool: &Pool) {
        for part in &mut self.parts {
            part.bytes = pool.shrink(std::mem::take(&mut part.bytes), part.length);
        }
    }
}

fn add(counts: &mut [u64], others: &[u64]) {
    for (count, other) in counts.iter_mut().zip(others) {
        *count += other;
    }
}

/// Counts of a business transaction.
pub struct TransactionSummary<P> {
    /// What its occurrences share.
    pub plan: Arc<Plan<P>>,
    /// The number of delivered records.
    pub records: usize,
    /// The number of occurrences.
    pub occurrences: u64,
    /// By field number, how many occurrences lack this required field.
    pub missing: Box<[u64; FIELDS]>,
    /// By field number, how many occurrences have this forbidden field.
    pub unexpected: Box<[u64; FIELDS]>,
}

impl<P> TransactionSummary<P> {
    pub(crate) fn new(plan: Arc<Plan<P>>, occurrences: u64) -> Self {
        Self { plan, records: 0, occurrences, missing: Box::new([0; FIELDS]), unexpected: Box::new([0; FIELDS]) }
    }

    /// Adds the counts of another one of the same plan.
    fn join(&mut self, next: &Self) {
        self.records += next.records;
        self.occurrences += next.occurrences;
        add(&mut self.missing[..], &next.missing[..]);
        add(&mut self.unexpected[..], &next.unexpected[..]);
    }
}

/// An occurrence that is not delivered.
pub struct RefusedRecord {
    /// The position of the occurrence in the post.
    pub ordinal: u64,
    /// The `event.id`.
    pub id: Vec<u8>,
    /// The key that the record would have.
    pub key: Vec<u8>,
    /// The startTime.
    pub timestamp: i64,
    /// The index of the business transaction in `Mapped::transactions`.
    pub transaction: usize,
    /// The violated rules, each with the name of the field. Empty if the startTime is out of range.
    pub violations: Vec<(&'static str, String)>,
    /// The record.
    pub body: Vec<u8>,
}
