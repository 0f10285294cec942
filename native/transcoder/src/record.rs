//! One occurrence as a record: its fields in the order of the field table, each written once.

use std::collections::HashMap;

use crate::json::Writer;
use crate::occurrence::Occurrence;
use crate::plan::Place;
use crate::privacy::{Hasher, mask_ip};
use crate::table::{Encoding, Step, Table};
use crate::time::{Clock, LENGTH};

/// What 64 bits hold ends here: 2 to the 63.
const LIMIT: f64 = (1_u64 << 63) as f64;

/// Where something stands among the records: first byte and length.
pub type Span = (usize, usize);

/// What was odd about the values written so far.
#[derive(Default)]
pub struct Oddities {
    /// By record field: values that JSON or 64 bits can't hold.
    pub left_out: HashMap<String, u64>,
    /// Strings that were not UTF-8.
    pub invalid_utf8: u64,
}

/// What a record needs beside its occurrence.
pub struct Context<'c> {
    /// The field table and the settings.
    pub table: &'c Table,
    /// `head` of the settings, and the digest's part of event.id.
    pub head: &'c [u8],
    /// The plan's.
    pub tail: &'c [u8],
    /// At least as many as the occurrence has values, and as it has dimensions.
    pub places: [&'c [Place]; 2],
    /// The bits of the fields that are left out.
    pub dropped: u64,
    /// It is a visit: endTime - startTime is its duration, where it has none to deliver.
    pub lasts: bool,
}

/// Where a record says who it is.
pub struct Identity {
    /// Of event.id.
    pub id: Span,
    /// Of the key.
    pub key: Span,
    /// startTime is a moment.
    pub timed: bool,
}

/// Writes records.
pub struct Records {
    /// The records.
    pub json: Writer,
    /// What was odd about them.
    pub odd: Oddities,
    clock: Clock,
}

impl Records {
    /// Writes into `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { json: Writer::new(bytes), odd: Oddities::default(), clock: Clock::default() }
    }

    /// Writes a record and its newline.
    #[inline]
    pub fn write(&mut self, context: &Context<'_>, occurrence: &Occurrence<'_>, ordinal: u64) -> Identity {
        let table = context.table;
        self.json.bytes(context.head);
        let digits = self.json.len();
        self.json.integer(ordinal as i64);
        let id_start = digits - (context.head.len() - table.settings.head.len());
        let id = (id_start, self.json.len() - id_start);
        let mut identity = Identity { id, key: id, timed: true };
        self.json.bytes(context.tail);

        let duration = table.roles.duration;
        let computed = context.lasts && occurrence.has(table.roles.end_time) && table.dropped >> duration & 1 == 0;
        let at_end = computed && !occurrence.has(duration);
        let in_place = computed && occurrence.has(duration) && context.dropped >> duration & 1 == 1; // of one not wanted
        let shown = occurrence.present & !context.dropped | u64::from(in_place) << duration;
        if !table.settings.defaults.is_empty() {
            self.defaults(context, occurrence, shown | u64::from(at_end) << duration);
        }
        let hidden = occurrence.present & !shown;
        if hidden != 0 {
            self.look_at(table, occurrence, hidden);
        }
        let mut todo = shown;
        while todo != 0 {
            let number = todo.trailing_zeros();
            todo &= todo - 1;
            match &table.steps[number as usize] {
                Some(step) if number == duration && in_place => {
                    self.duration(step, occurrence, table);
                }
                Some(step) => self.field(step, number, occurrence, table, &mut identity),
                None => self.list(context, number, occurrence),
            }
        }
        if at_end && let Some(step) = &table.steps[duration as usize] {
            self.duration(step, occurrence, table);
        }
        self.json.bytes(b"}\n");
        identity
    }

    #[inline]
    fn field(&mut self, step: &Step, number: u32, occurrence: &Occurrence<'_>, table: &Table, identity: &mut Identity) {
        let index = number as usize;
        match step.encoding {
            Encoding::Timestamp => match self.clock.quoted(occurrence.signed(number)) {
                Some(text) => {
                    self.json.key(&step.key);
                    self.json.some(text, LENGTH);
                }
                None if number == table.roles.start_time => {
                    identity.timed = false;
                    self.json.key(&step.key);
                    self.json.integer(occurrence.signed(number));
                }
                None => self.leave_out(step),
            },
            Encoding::Nanoseconds => {
                let nanoseconds = (f64::from_bits(occurrence.numbers[index]) * 1e6).round_ties_even();
                if (-LIMIT..LIMIT).contains(&nanoseconds) {
                    self.json.key(&step.key);
                    self.json.integer(nanoseconds as i64);
                } else {
                    self.leave_out(step);
                }
            }
            Encoding::Number => {
                let value = f64::from_bits(occurrence.numbers[index]);
                if value.is_finite() {
                    self.json.key(&step.key);
                    self.json.number(value);
                } else {
                    self.leave_out(step);
                }
            }
            Encoding::Integer => {
                self.json.key(&step.key);
                self.json.integer(occurrence.signed(number));
            }
            Encoding::Boolean => {
                self.json.key(&step.key);
                self.json.bytes(if occurrence.numbers[index] == 0 { b"false" } else { b"true" });
            }
            Encoding::Outcome => {
                self.json.key(&step.key);
                self.text(step, if occurrence.numbers[index] == 0 { b"success" } else { b"failure" });
            }
            Encoding::Decimal => {
                self.json.key(&step.key);
                let start = self.json.len();
                self.text(step, itoa::Buffer::new().format(occurrence.signed(number)).as_bytes());
                if number == table.roles.visit_id {
                    identity.key = (start + 1, self.json.len() - start - 2);
                }
            }
            Encoding::String if step.masked => self.masked(step, occurrence.texts[index]),
            Encoding::String => {
                self.json.key(&step.key);
                self.text(step, occurrence.texts[index]);
            }
            Encoding::Strings => self.strings(step, &occurrence.strings),
            Encoding::Measures | Encoding::Dimensions => unreachable!("lists have no step of their own"),
        }
    }

    /// A text, hashed where that is wanted.
    #[inline]
    fn text(&mut self, step: &Step, text: &[u8]) {
        if let Some(hasher) = &step.hasher {
            self.hashed(hasher, text);
        } else if !self.json.text(text) {
            self.odd.invalid_utf8 += 1;
        }
    }

    #[cold]
    fn hashed(&mut self, hasher: &Hasher, text: &[u8]) {
        let valid = String::from_utf8_lossy(text);
        self.odd.invalid_utf8 += u64::from(std::str::from_utf8(text).is_err());
        let digits = hasher.hash(valid.as_bytes());
        self.json.text(&digits);
    }

    fn masked(&mut self, step: &Step, text: &[u8]) {
        self.odd.invalid_utf8 += u64::from(std::str::from_utf8(text).is_err());
        match mask_ip(&String::from_utf8_lossy(text)) {
            Some(masked) => {
                self.json.key(&step.key);
                self.text(step, masked.as_bytes());
            }
            None => self.leave_out(step),
        }
    }

    fn strings(&mut self, step: &Step, strings: &[&[u8]]) {
        self.json.key(&step.key);
        self.json.byte(b'[');
        for (place, text) in strings.iter().enumerate() {
            if place > 0 {
                self.json.byte(b',');
            }
            self.text(step, text);
        }
        self.json.byte(b']');
    }

    #[inline]
    fn list(&mut self, context: &Context<'_>, number: u32, occurrence: &Occurrence<'_>) {
        let [values, dimensions] = context.places;
        if number == context.table.lists[0] {
            for (place, &value) in values.iter().zip(&occurrence.values) {
                if place.dropped {
                    continue;
                }
                if value.is_finite() {
                    self.json.key(&place.step.key);
                    self.json.number(value);
                } else {
                    self.leave_out(&place.step);
                }
            }
        } else {
            for (place, text) in dimensions.iter().zip(&occurrence.dimensions) {
                if place.dropped {
                    self.odd.invalid_utf8 += u64::from(std::str::from_utf8(text).is_err());
                } else {
                    self.json.key(&place.step.key);
                    self.text(&place.step, text);
                }
            }
        }
    }

    fn duration(&mut self, step: &Step, occurrence: &Occurrence<'_>, table: &Table) {
        let roles = &table.roles;
        let milliseconds = i128::from(occurrence.signed(roles.end_time)) - i128::from(occurrence.signed(roles.start_time));
        match i64::try_from(milliseconds * 1_000_000) {
            Ok(nanoseconds) => {
                self.json.key(&step.key);
                self.json.integer(nanoseconds);
            }
            Err(_) => self.leave_out(step),
        }
    }

    /// Count a value that is left out; the attribute of its name, if there is one, takes its place.
    #[cold]
    fn leave_out(&mut self, step: &Step) {
        if let Some(default) = &step.default {
            self.json.key(&step.key);
            self.json.bytes(default);
        }
        *self.odd.left_out.entry(step.name.clone()).or_default() += 1;
    }

    /// Attributes that no field of this record overrides.
    #[cold]
    fn defaults(&mut self, context: &Context<'_>, occurrence: &Occurrence<'_>, shown: u64) {
        let table = context.table;
        let counts = [occurrence.values.len(), occurrence.dimensions.len()];
        for (name, value) in &table.settings.defaults {
            let field = table.fields.iter().any(|field| {
                field.record == *name && shown >> field.number & 1 == 1 && !table.lists.contains(&field.number)
            });
            let listed =
                context.places.iter().zip(counts).any(|(places, count)| {
                    places.iter().take(count).any(|place| place.step.name == *name && !place.dropped)
                });
            if !field && !listed {
                self.json.byte(b',');
                self.json.text(name.as_bytes());
                self.json.byte(b':');
                self.json.bytes(value);
            }
        }
    }

    /// Texts count where they are not UTF-8, also those that are left out.
    #[cold]
    fn look_at(&mut self, table: &Table, occurrence: &Occurrence<'_>, hidden: u64) {
        for (number, step) in table.steps.iter().enumerate().filter(|(number, _)| hidden >> number & 1 == 1) {
            let strings = step.as_ref().is_some_and(|step| step.encoding == Encoding::Strings);
            let texts = if strings { occurrence.strings.as_slice() } else { &occurrence.texts[number..=number] };
            self.odd.invalid_utf8 += texts.iter().filter(|text| std::str::from_utf8(text).is_err()).count() as u64;
        }
    }
}
