//! Maps a whole post.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::layout::{Layout, split_transaction};
use crate::mapped::{Mapped, Part, RefusedRecord, TransactionSummary};
use crate::occurrence::Occurrence;
use crate::plan::{Cache, Compiler, List, ListField, Plan};
use crate::pool::Pool;
use crate::record::{Context, Identity, Records, Span};
use crate::table::{FIELDS, Policy, Table, UNKNOWN_CATEGORY};

/// The size in bytes of records from which on their ratio to the body serves as an estimate for the next post.
const SIGNIFICANT: usize = 1 << 12;

/// Why a post has no records.
#[derive(Debug)]
pub enum Error<E> {
    /// The body is malformed.
    Malformed,
    /// A call to the compiler failed.
    Compiler(E),
}

impl<E> From<E> for Error<E> {
    fn from(error: E) -> Self {
        Self::Compiler(error)
    }
}

/// Maps posts under one configuration. Several threads may share it.
pub struct Transcoder<P> {
    table: Table,
    plans: Cache<P>,
    pool: Arc<Pool>,
    growth: AtomicUsize, // bytes of records per 1024 bytes of body, in the last post
}

impl<P: Send + Sync> Transcoder<P> {
    /// Creates a transcoder with this field table and its settings.
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self { table, plans: Cache::default(), pool: Arc::default(), growth: AtomicUsize::new(4 << 10) }
    }

    /// Returns the field table and the settings.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Returns the pool. Give the buffers of `Mapped::parts` back to it when the records are no longer needed.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Maps a post. `id_prefix` is the part of `event.id` that all its records share.
    pub fn transcode<C: Compiler<Plan = P>>(
        &self,
        body: &[u8],
        id_prefix: &[u8],
        compiler: &C,
    ) -> Result<Mapped<P>, Error<C::Error>> {
        let layout = Layout::read(body).ok_or(Error::Malformed)?;
        let growth = self.growth.load(Ordering::Relaxed).clamp(1 << 10, 16 << 10);
        let head = [self.table.settings.head.as_slice(), id_prefix].concat();
        let mut post = Post {
            table: &self.table,
            compiler,
            head: &head,
            records: Records::new(self.pool.take(((body.len() * growth) >> 10) + SIGNIFICANT)),
            ordinal: 0,
            mapped: Mapped::new(&layout),
        };
        let mut occurrence = Occurrence::default();
        let (mut occurrences, mut shared, mut key) = (Vec::new(), Vec::new(), Vec::new());
        for content in layout.transactions {
            let unknown = split_transaction(content, &mut occurrences, &mut shared).ok_or(Error::Malformed)?;
            post.mapped.unknown[1] += unknown;
            let plan = self.plans.get(&self.table, compiler, layout.server, &shared, &mut key)?;
            post.add_transaction(plan, &occurrences, &mut occurrence)?;
        }
        let mut mapped = post.mapped;
        let invalid_server = layout.server.is_some_and(|server| std::str::from_utf8(server).is_err());
        mapped.issues = post.records.issues;
        mapped.issues.invalid_utf8 += u64::from(invalid_server);
        let (json, length) = post.records.json.into_parts();
        if length >= SIGNIFICANT {
            self.growth.store((length << 10) / body.len(), Ordering::Relaxed);
        }
        mapped.parts.push(Part { bytes: self.pool.shrink(json, length), length });
        mapped.length = length;
        mapped.ends = vec![mapped.sizes.len()];
        Ok(mapped)
    }
}

/// A post that is being mapped.
struct Post<'p, C: Compiler> {
    table: &'p Table,
    compiler: &'p C,
    head: &'p [u8],
    records: Records,
    ordinal: u64,
    mapped: Mapped<C::Plan>,
}

/// The rules that an occurrence violates, as bits by field number.
#[derive(Clone, Copy)]
struct Violations {
    missing: u64,
    unexpected: u64,
}

impl<C: Compiler> Post<'_, C> {
    /// Maps the occurrences of a business transaction. `occurrence` is overwritten.
    fn add_transaction<'a>(
        &mut self,
        plan: Arc<Plan<C::Plan>>,
        occurrences: &[&'a [u8]],
        occurrence: &mut Occurrence<'a>,
    ) -> Result<(), Error<C::Error>> {
        let table = self.table;
        let mut summary = TransactionSummary::new(Arc::clone(&plan), occurrences.len() as u64);
        self.records.issues.invalid_utf8 += plan.invalid_utf8;
        let mut lists = [plan.list(List::Values), plan.list(List::Dimensions)];
        self.mapped.reserve(occurrences.len());
        for content in occurrences {
            occurrence.read(table, content).ok_or(Error::Malformed)?;
            if !occurrence.has(table.roles.start_time) {
                return Err(Error::Malformed);
            }
            self.mapped.unknown[2] += occurrence.unknown;
            for (list, count) in [(List::Values, occurrence.values.len()), (List::Dimensions, occurrence.dimensions.len())]
            {
                if count > lists[list as usize].len() {
                    lists[list as usize] = plan.longer_list(table, self.compiler, list, count)?;
                }
            }
            self.add_occurrence(&plan, &mut summary, &lists, occurrence);
            self.ordinal += 1;
        }
        self.mapped.transactions.push(summary);
        Ok(())
    }

    /// Validates an occurrence and writes its record.
    #[inline]
    fn add_occurrence(
        &mut self,
        plan: &Plan<C::Plan>,
        summary: &mut TransactionSummary<C::Plan>,
        lists: &[Arc<[ListField]>; 2],
        occurrence: &Occurrence<'_>,
    ) {
        let table = self.table;
        let category = plan.category;
        let violations = self.validate(plan, occurrence);
        let Violations { missing, unexpected } = violations;
        count_fields(&mut summary.missing, missing);
        count_fields(&mut summary.unexpected, unexpected);
        let settings = &table.settings;
        let list_bits = 1 << table.lists[0] | 1 << table.lists[1];
        let context = Context {
            table,
            head: self.head,
            tail: &plan.tail,
            lists: [&lists[0], &lists[1]],
            dropped: table.dropped | if settings.unexpected == Policy::Drop { unexpected & !list_bits } else { 0 },
            is_visit: category == table.roles.visit,
        };
        let start = self.records.json.len();
        let identity = self.records.write(&context, occurrence, self.ordinal);
        let unknown_type = category == UNKNOWN_CATEGORY && settings.missing == Policy::DeadLetter;
        let refused = missing != 0 && settings.missing == Policy::DeadLetter
            || unexpected != 0 && settings.unexpected == Policy::DeadLetter
            || unknown_type;
        if identity.has_valid_time && !refused {
            let mapped = &mut self.mapped;
            mapped.sizes.push((self.records.json.len() - start) as i64);
            mapped.timestamps.push(occurrence.signed(table.roles.start_time));
            mapped.ids.push(identity.id);
            mapped.keys.push(identity.key);
            summary.records += 1;
        } else {
            self.refuse(start, &identity, category, violations, occurrence);
        }
    }

    /// Returns the violated rules. Counts lists that differ in length from their names.
    #[inline]
    fn validate(&mut self, plan: &Plan<C::Plan>, occurrence: &Occurrence<'_>) -> Violations {
        let table = self.table;
        let mut missing = table.required[plan.category] & !occurrence.present;
        for (list, count) in [occurrence.values.len(), occurrence.dimensions.len()].into_iter().enumerate() {
            let fewer = count < plan.named[list];
            self.mapped.mismatches[list][0] += u64::from(fewer);
            self.mapped.mismatches[list][1] += u64::from(count > plan.named[list]);
            missing |= u64::from(fewer && table.required_lists[plan.category][list]) << table.lists[list];
        }
        Violations { missing, unexpected: table.forbidden[plan.category] & occurrence.present }
    }

    /// Moves the last record, which begins at `start`, to the refused ones.
    fn refuse(
        &mut self,
        start: usize,
        identity: &Identity,
        category: usize,
        violations: Violations,
        occurrence: &Occurrence<'_>,
    ) {
        let mut body = self.records.json.split_off(start);
        body.pop(); // the newline
        let text = |(at, length): Span| body[at - start..at - start + length].to_vec();
        let violations = if identity.has_valid_time { self.reasons(category, violations) } else { Vec::new() };
        self.mapped.refused.push(RefusedRecord {
            ordinal: self.ordinal,
            id: text(identity.id),
            key: text(identity.key),
            timestamp: occurrence.signed(self.table.roles.start_time),
            transaction: self.mapped.transactions.len(),
            violations,
            body,
        });
    }

    /// Returns the violations for which an occurrence is refused, in the order of the field table.
    fn reasons(&self, category: usize, violations: Violations) -> Vec<(&'static str, String)> {
        let settings = &self.table.settings;
        let mut reasons = Vec::new();
        if category == UNKNOWN_CATEGORY && settings.missing == Policy::DeadLetter {
            reasons.push(("missing", "type".to_owned()));
        }
        for field in &self.table.fields {
            if violations.missing >> field.number & 1 == 1 && settings.missing == Policy::DeadLetter {
                reasons.push(("missing", field.name.clone()));
            } else if violations.unexpected >> field.number & 1 == 1 && settings.unexpected == Policy::DeadLetter {
                reasons.push(("unexpected", field.name.clone()));
            }
        }
        reasons
    }
}

/// Adds one to the count of each field in `fields`.
#[inline]
fn count_fields(counts: &mut [u64; FIELDS], mut fields: u64) {
    while fields != 0 {
        counts[fields.trailing_zeros() as usize % FIELDS] += 1;
        fields &= fields - 1;
    }
}
