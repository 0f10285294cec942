//! A whole post: from its body to columns of records, and all that is to be said of it.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::occurrence::Occurrence;
use crate::plan::{Compiler, List, Place, Plan, Plans};
use crate::pool::Pool;
use crate::record::{Context, Oddities, Records, Span};
use crate::table::{CATEGORIES, FIELDS, Policy, Table, UNKNOWN};
use crate::wire::{DELIMITED, MAX_DEPTH, Reader, VARINT};

/// Tags of BusinessTransactions: the number of a field in proto/bt.proto and its wire type.
mod tags {
    use super::{DELIMITED, VARINT};

    pub const TRANSACTION: u32 = 1 << 3 | DELIMITED;
    pub const LOST: u32 = 2 << 3 | VARINT;
    pub const SERVER: u32 = 3 << 3 | DELIMITED;

    /// Of a BusinessTransaction.
    pub const TYPE: u32 = 2 << 3 | VARINT;
    pub const OCCURRENCE: u32 = 6 << 3 | DELIMITED;
    /// name, application, measureNames, dimensionNames, systemProfile.
    pub const TEXTS: [u32; 5] =
        [1 << 3 | DELIMITED, 3 << 3 | DELIMITED, 4 << 3 | DELIMITED, 5 << 3 | DELIMITED, 7 << 3 | DELIMITED];
}

/// Bytes of records from which on a post says something of the next.
const SIGNIFICANT: usize = 1 << 12;
/// Bytes that are fetched at a time: no more than a core's own cache has room for.
const FETCHED: usize = 1 << 19;
const CACHE_LINE: usize = 64;
/// Values of the closed enum BusinessTransaction.Type; others are unknown fields.
const TYPES: u32 = 3;

/// Why there are no records.
#[derive(Debug)]
pub enum Failure<E> {
    /// The body is no acceptable post.
    Malformed,
    /// Python raised this.
    Compiler(E),
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::Compiler(error)
    }
}

/// The occurrences of one business transaction.
pub struct Run<P> {
    /// What they share.
    pub plan: Arc<Plan<P>>,
    /// How many were delivered.
    pub records: usize,
    /// How many there were.
    pub occurrences: u64,
    /// By field number: occurrences without it that must have it.
    pub missing: Box<[u64; FIELDS]>,
    /// By field number: occurrences with it that must not.
    pub unexpected: Box<[u64; FIELDS]>,
}

/// An occurrence that is not delivered.
pub struct Refused {
    /// Its place in the post.
    pub ordinal: u64,
    /// Its event.id.
    pub id: Vec<u8>,
    /// What its key would be.
    pub key: Vec<u8>,
    /// Its startTime.
    pub timestamp: i64,
    /// The place of its business transaction among the runs.
    pub run: usize,
    /// The rules that it breaks, each with the field's name; none where its startTime is no moment.
    pub broken: Vec<(&'static str, String)>,
    /// Its record.
    pub body: Vec<u8>,
}

/// All that a post became.
pub struct Mapped<P> {
    /// The records, one JSON object and a newline each, and behind them what means nothing.
    pub json: Vec<u8>,
    /// Bytes of the records.
    pub length: usize,
    /// Bytes of each record, its newline included.
    pub sizes: Vec<i64>,
    /// The startTime of each.
    pub timestamps: Vec<i64>,
    /// Where each has its event.id.
    pub ids: Vec<Span>,
    /// Where each has its key.
    pub keys: Vec<Span>,
    /// The business transactions, in order.
    pub runs: Vec<Run<P>>,
    /// Those that are not delivered.
    pub refused: Vec<Refused>,
    /// What was odd about values.
    pub odd: Oddities,
    /// Occurrences with fewer and with more values than names, and likewise dimensions.
    pub mismatches: [[u64; 2]; 2],
    /// Unknown fields of the post, its transactions, its occurrences.
    pub unknown: [u64; 3],
    /// lostTransactions.
    pub lost: i32,
}

/// Transcodes posts under one configuration. It may be used by several threads at a time.
pub struct Transcoder<P> {
    table: Table,
    plans: Plans<P>,
    pool: Arc<Pool>,
    growth: AtomicUsize, // bytes of records to 1024 of a body, in the last post
}

impl<P: Send + Sync> Transcoder<P> {
    /// Of this field table, under these settings.
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self { table, plans: Plans::default(), pool: Arc::default(), growth: AtomicUsize::new(4 << 10) }
    }

    /// The field table and the settings.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Where the memory of records goes when nobody uses it any more.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The records of a post. `id_prefix`: what its event.ids begin with.
    pub fn transcode<C: Compiler<Plan = P>>(
        &self,
        body: &[u8],
        id_prefix: &[u8],
        compiler: &C,
    ) -> Result<Mapped<P>, Failure<C::Error>> {
        let outline = Outline::read(body).ok_or(Failure::Malformed)?;
        let growth = self.growth.load(Ordering::Relaxed).clamp(1 << 10, 16 << 10);
        let head = [self.table.settings.head.as_slice(), id_prefix].concat();
        let mut post = Post {
            table: &self.table,
            compiler,
            head: &head,
            records: Records::new(self.pool.take(((body.len() * growth) >> 10) + SIGNIFICANT)),
            ordinal: 0,
            mapped: outline.begin(),
        };
        let mut occurrence = Occurrence::default();
        let (mut occurrences, mut known, mut key) = (Vec::new(), Vec::new(), Vec::new());
        for content in outline.transactions {
            let unknown = split(content, &mut occurrences, &mut known).ok_or(Failure::Malformed)?;
            post.mapped.unknown[1] += unknown;
            let plan = self.plans.get(&self.table, compiler, outline.server, &known, &mut key)?;
            post.run(plan, &occurrences, &mut occurrence)?;
        }
        let mut mapped = post.mapped;
        let server_is_text = outline.server.is_none_or(|server| std::str::from_utf8(server).is_ok());
        mapped.odd = post.records.odd;
        mapped.odd.invalid_utf8 += u64::from(!server_is_text);
        let (json, length) = post.records.json.finish();
        if length >= SIGNIFICANT {
            self.growth.store((length << 10) / body.len(), Ordering::Relaxed);
        }
        mapped.json = self.pool.fit(json, length);
        mapped.length = length;
        Ok(mapped)
    }
}

/// What a post says of itself.
#[derive(Default)]
struct Outline<'a> {
    transactions: Vec<&'a [u8]>,
    server: Option<&'a [u8]>,
    lost: i32,
    unknown: u64,
}

impl<'a> Outline<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        let mut found = Self::default();
        let mut reader = Reader::new(body);
        while !reader.at_end() {
            match reader.tag()? {
                tags::TRANSACTION => found.transactions.push(reader.delimited()?),
                tags::LOST => found.lost = reader.varint()? as i32,
                tags::SERVER => found.server = Some(reader.delimited()?),
                tag => {
                    reader.skip(tag, MAX_DEPTH)?;
                    found.unknown += 1;
                }
            }
        }
        Some(found)
    }

    fn begin<P>(&self) -> Mapped<P> {
        Mapped {
            json: Vec::new(),
            length: 0,
            sizes: Vec::new(),
            timestamps: Vec::new(),
            ids: Vec::new(),
            keys: Vec::new(),
            runs: Vec::with_capacity(self.transactions.len()),
            refused: Vec::new(),
            odd: Oddities::default(),
            mismatches: [[0; 2]; 2],
            unknown: [self.unknown, 0, 0],
            lost: self.lost,
        }
    }
}

/// Brings the first of these bytes near. Occurrences are found by their lengths, one after the other: each of those steps
/// would wait for memory by itself.
fn fetch(bytes: &[u8]) {
    let near = &bytes[..bytes.len().min(FETCHED)];
    black_box(near.iter().step_by(CACHE_LINE).fold(0, |found, byte| found ^ byte));
}

/// Parts a transaction into its occurrences and the wire of all else that is known. How many fields are unknown.
fn split<'a>(content: &'a [u8], occurrences: &mut Vec<&'a [u8]>, known: &mut Vec<u8>) -> Option<u64> {
    fetch(content);
    occurrences.clear();
    known.clear();
    let mut unknown = 0;
    let mut reader = Reader::new(content);
    while !reader.at_end() {
        let start = content.len() - reader.left();
        let tag = reader.tag()?;
        if tag == tags::OCCURRENCE {
            occurrences.push(reader.delimited()?);
            continue;
        }
        let is_known = if tag == tags::TYPE {
            (reader.varint()? as u32) < TYPES
        } else {
            reader.skip(tag, MAX_DEPTH - 1)?;
            tags::TEXTS.contains(&tag)
        };
        if is_known {
            known.extend_from_slice(&content[start..content.len() - reader.left()]);
        } else {
            unknown += 1;
        }
    }
    Some(unknown)
}

/// A post while its columns grow.
struct Post<'p, C: Compiler> {
    table: &'p Table,
    compiler: &'p C,
    head: &'p [u8],
    records: Records,
    ordinal: u64,
    mapped: Mapped<C::Plan>,
}

impl<C: Compiler> Post<'_, C> {
    fn run<'a>(
        &mut self,
        plan: Arc<Plan<C::Plan>>,
        occurrences: &[&'a [u8]],
        occurrence: &mut Occurrence<'a>,
    ) -> Result<(), Failure<C::Error>> {
        let table = self.table;
        let mut run = Run {
            plan: Arc::clone(&plan),
            records: 0,
            occurrences: occurrences.len() as u64,
            missing: Box::new([0; FIELDS]),
            unexpected: Box::new([0; FIELDS]),
        };
        self.records.odd.invalid_utf8 += plan.invalid_utf8;
        let mut places = [plan.places(List::Values), plan.places(List::Dimensions)];
        for content in occurrences {
            occurrence.read(table, content).ok_or(Failure::Malformed)?;
            if !occurrence.has(table.roles.start_time) {
                return Err(Failure::Malformed);
            }
            self.mapped.unknown[2] += occurrence.unknown;
            for (list, count) in [(List::Values, occurrence.values.len()), (List::Dimensions, occurrence.dimensions.len())]
            {
                if count > places[list as usize].len() {
                    places[list as usize] = plan.more_places(table, self.compiler, list, count)?;
                }
            }
            self.add(&plan, &mut run, &places, occurrence);
            self.ordinal += 1;
        }
        self.mapped.runs.push(run);
        Ok(())
    }

    /// Validate one occurrence, and write its record.
    #[inline]
    fn add(
        &mut self,
        plan: &Plan<C::Plan>,
        run: &mut Run<C::Plan>,
        places: &[Arc<[Place]>; 2],
        occurrence: &Occurrence<'_>,
    ) {
        let table = self.table;
        let category = plan.category;
        let mut missing = table.required[category] & !occurrence.present;
        for (list, count) in [occurrence.values.len(), occurrence.dimensions.len()].into_iter().enumerate() {
            let fewer = count < plan.named[list];
            self.mapped.mismatches[list][0] += u64::from(fewer);
            self.mapped.mismatches[list][1] += u64::from(count > plan.named[list]);
            missing |= u64::from(fewer && table.counted[category][list]) << table.lists[list];
        }
        let unexpected = table.forbidden[category] & occurrence.present;
        tally(&mut run.missing, missing);
        tally(&mut run.unexpected, unexpected);
        let policy = &table.settings;
        let lists = 1 << table.lists[0] | 1 << table.lists[1];
        let context = Context {
            table,
            head: self.head,
            tail: &plan.tail,
            places: [&places[0], &places[1]],
            dropped: table.dropped | if policy.unexpected == Policy::Drop { unexpected & !lists } else { 0 },
            lasts: category == table.roles.visit,
        };
        let start = self.records.json.len();
        let identity = self.records.write(&context, occurrence, self.ordinal);
        let unknown_type = category == UNKNOWN && policy.missing == Policy::DeadLetter;
        let refused = missing != 0 && policy.missing == Policy::DeadLetter
            || unexpected != 0 && policy.unexpected == Policy::DeadLetter
            || unknown_type;
        let mapped = &mut self.mapped;
        if identity.timed && !refused {
            mapped.sizes.push((self.records.json.len() - start) as i64);
            mapped.timestamps.push(occurrence.signed(table.roles.start_time));
            mapped.ids.push(identity.id);
            mapped.keys.push(identity.key);
            run.records += 1;
        } else {
            let mut body = self.records.json.take_back(start);
            body.pop(); // the newline
            let text = |(at, length): Span| body[at - start..at - start + length].to_vec();
            let broken = if identity.timed { self.broken(category, missing, unexpected) } else { Vec::new() };
            self.mapped.refused.push(Refused {
                ordinal: self.ordinal,
                id: text(identity.id),
                key: text(identity.key),
                timestamp: occurrence.signed(table.roles.start_time),
                run: self.mapped.runs.len(),
                broken,
                body,
            });
        }
    }

    /// The rules for which an occurrence is refused, in the order of the field table.
    fn broken(&self, category: usize, missing: u64, unexpected: u64) -> Vec<(&'static str, String)> {
        let settings = &self.table.settings;
        let mut found = Vec::new();
        if category == UNKNOWN && settings.missing == Policy::DeadLetter {
            found.push(("missing", "type".to_owned()));
        }
        for field in &self.table.fields {
            if missing >> field.number & 1 == 1 && settings.missing == Policy::DeadLetter {
                found.push(("missing", field.name.clone()));
            } else if unexpected >> field.number & 1 == 1 && settings.unexpected == Policy::DeadLetter {
                found.push(("unexpected", field.name.clone()));
            }
        }
        found
    }
}

#[inline]
fn tally(counts: &mut [u64; FIELDS], mut fields: u64) {
    while fields != 0 {
        counts[fields.trailing_zeros() as usize % FIELDS] += 1;
        fields &= fields - 1;
    }
}

/// By category, how many occurrences there were.
#[must_use]
pub fn occurrences<P>(runs: &[Run<P>]) -> [u64; CATEGORIES] {
    let mut found = [0; CATEGORIES];
    for run in runs {
        found[run.plan.category] += run.occurrences;
    }
    found
}
