//! The result of mapping a post.

use std::sync::Arc;

use crate::layout::Layout;
use crate::plan::Plan;
use crate::pool::Pool;
use crate::record::{Issues, Span};
use crate::table::{CATEGORIES, FIELDS};

/// How many posts a run has room for, at least.
const SMALL: usize = 16;

/// The records of a post, or of a run of posts in a row, and what was noticed about it.
pub struct Mapped<P> {
    /// The delivered records, one JSON object and a newline each. Only the first `length` bytes count.
    pub json: Vec<u8>,
    /// The size in bytes of all records.
    pub length: usize,
    /// The size in bytes of each record, with its newline.
    pub sizes: Vec<i64>,
    /// The startTime of each record.
    pub timestamps: Vec<i64>,
    /// The position of each `event.id` in `json`.
    pub ids: Vec<Span>,
    /// The position of each key in `json`.
    pub keys: Vec<Span>,
    /// The number of records up to the end of each post.
    pub ends: Vec<usize>,
    /// The business transactions, in the order of the post.
    pub transactions: Vec<TransactionSummary<P>>,
    /// The refused occurrences.
    pub refused: Vec<RefusedRecord>,
    /// Problems with values.
    pub issues: Issues,
    /// For measures and dimensions, the numbers of occurrences with fewer and with more of them than names.
    pub mismatches: [[u64; 2]; 2],
    /// The numbers of unknown fields in the post, in its business transactions and in their occurrences.
    pub unknown: [u64; 3],
    /// lostTransactions.
    pub lost: i32,
}

impl<P> Mapped<P> {
    /// Creates the result of a post without occurrences.
    pub(crate) fn new(layout: &Layout<'_>) -> Self {
        Self {
            json: Vec::new(),
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
            lost: layout.lost,
        }
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

    /// Whether `next` should be joined: what is refused, and a count that makes no sense, belong to a post that is alone, and
    /// to copy a larger post costs more than to keep it apart.
    #[must_use]
    pub fn joins(&self, next: &Self, max_size: usize) -> bool {
        let lost = self.lost >= 0 && next.lost >= 0 && self.lost.checked_add(next.lost).is_some();
        let small = max_size / SMALL;
        let fits = self.length <= small * self.ends.len() && next.length <= small && self.length + next.length <= max_size;
        lost && fits && self.refused.is_empty() && next.refused.is_empty()
    }

    /// Adds the records of the posts that follow. Call it if `next` joins with this `max_size`, and then `shrink`.
    pub fn join(&mut self, mut next: Self, max_size: usize, pool: &Pool) {
        let (start, records) = (self.length, self.sizes.len());
        if self.ends.len() == 1 {
            let mut json = pool.take(max_size);
            json[..start].copy_from_slice(&self.json[..start]);
            pool.give_back(std::mem::replace(&mut self.json, json));
        }
        self.length += next.length;
        self.json[start..self.length].copy_from_slice(&next.json[..next.length]);
        pool.give_back(next.json);
        self.sizes.append(&mut next.sizes);
        self.timestamps.append(&mut next.timestamps);
        self.ids.extend(next.ids.iter().map(|&(at, length)| (start + at, length)));
        self.keys.extend(next.keys.iter().map(|&(at, length)| (start + at, length)));
        self.ends.extend(next.ends.iter().map(|end| records + end));
        self.transactions.append(&mut next.transactions);
        for (name, count) in next.issues.left_out {
            *self.issues.left_out.entry(name).or_default() += count;
        }
        self.issues.invalid_utf8 += next.issues.invalid_utf8;
        add(self.mismatches.as_flattened_mut(), next.mismatches.as_flattened());
        add(&mut self.unknown, &next.unknown);
        self.lost += next.lost;
    }

    /// Gives back memory that was taken for posts to join.
    pub fn shrink(&mut self, pool: &Pool) {
        if self.ends.len() > 1 {
            self.json = pool.shrink(std::mem::take(&mut self.json), self.length);
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
