//! Writes occurrences as records: the fields in the order of the field table, each once.

use std::collections::HashMap;

use crate::json::Writer;
use crate::occurrence::Occurrence;
use crate::plan::ListField;
use crate::privacy::{Hasher, mask_ip};
use crate::table::{Encoding, RecordField, Table};
use crate::time::{Formatter, LENGTH};

/// 2^63: the integers that fit into 64 bits are below it.
const INTEGER_LIMIT: f64 = (1_u64 << 63) as f64;

/// A position among the records: the offset of the first byte, and the number of bytes.
pub type Span = (usize, usize);

/// Problems with the values that were written.
#[derive(Default)]
pub struct Issues {
    /// By record field, the number of values left out because JSON or a 64-bit integer can't hold them.
    pub left_out: HashMap<String, u64>,
    /// The number of strings that are not UTF-8.
    pub invalid_utf8: u64,
}

/// What the records of a business transaction need besides the occurrence.
pub struct Context<'c> {
    /// The field table and the settings.
    pub table: &'c Table,
    /// The `head` of the settings, and the prefix of `event.id`.
    pub head: &'c [u8],
    /// The plan's tail: what follows the value of `event.id`.
    pub tail: &'c [u8],
    /// How to write the measures and the dimensions: at least as many as the occurrence has.
    pub lists: [&'c [ListField]; 2],
    /// The fields to leave out, as bits.
    pub dropped: u64,
    /// Whether the occurrence is a visit. If it has no duration to deliver, endTime - startTime is written.
    pub is_visit: bool,
}

/// The identity of a record.
pub struct Identity {
    /// The position of the `event.id`.
    pub id: Span,
    /// The position of the key.
    pub key: Span,
    /// Whether the startTime is in the years 1 to 9999.
    pub has_valid_time: bool,
}

/// Writes records.
pub struct Records {
    /// The records.
    pub json: Writer,
    /// Problems with their values.
    pub issues: Issues,
    formatter: Formatter,
}

impl Records {
    /// Reuses `bytes` as the buffer.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { json: Writer::new(bytes), issues: Issues::default(), formatter: Formatter::default() }
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
        let mut identity = Identity { id, key: id, has_valid_time: true };
        self.json.bytes(context.tail);

        let duration = table.roles.duration;
        let computed = context.is_visit && occurrence.has(table.roles.end_time) && table.dropped >> duration & 1 == 0;
        let at_end = computed && !occurrence.has(duration);
        // The policy drops the duration in the feed: the computed one is written at its position.
        let in_place = computed && occurrence.has(duration) && context.dropped >> duration & 1 == 1;
        let shown = occurrence.present & !context.dropped | u64::from(in_place) << duration;
        let hidden = occurrence.present & !shown;
        if hidden != 0 {
            self.check_hidden(table, occurrence, hidden);
        }
        let mut todo = shown;
        while todo != 0 {
            let number = todo.trailing_zeros();
            todo &= todo - 1;
            match &table.record_fields[number as usize] {
                Some(field) if number == duration && in_place => self.duration(field, occurrence, table),
                Some(field) => self.field(field, number, occurrence, table, &mut identity),
                None => self.list(context, number, occurrence),
            }
        }
        if at_end && let Some(field) = &table.record_fields[duration as usize] {
            self.duration(field, occurrence, table);
        }
        self.json.bytes(b"}\n");
        identity
    }

    /// Writes a field that is not a list. Notes in `identity` the position of the key, and an invalid startTime.
    #[inline]
    fn field(
        &mut self,
        field: &RecordField,
        number: u32,
        occurrence: &Occurrence<'_>,
        table: &Table,
        identity: &mut Identity,
    ) {
        let index = number as usize;
        match field.encoding {
            Encoding::Timestamp => {
                let milliseconds = occurrence.signed(number);
                if !self.timestamp(field, milliseconds) {
                    if number == table.roles.start_time {
                        identity.has_valid_time = false;
                        self.integer(field, milliseconds);
                    } else {
                        self.leave_out(field);
                    }
                }
            }
            Encoding::Nanoseconds => self.nanoseconds(field, f64::from_bits(occurrence.numbers[index])),
            Encoding::Number => self.number(field, f64::from_bits(occurrence.numbers[index])),
            Encoding::Integer => self.integer(field, occurrence.signed(number)),
            Encoding::Boolean => {
                self.json.key(&field.key);
                self.json.bytes(if occurrence.numbers[index] == 0 { b"false" } else { b"true" });
            }
            Encoding::Outcome => {
                self.json.key(&field.key);
                let failed = occurrence.numbers[index] != 0;
                match &field.hasher {
                    Some(hasher) => self.hashed(hasher, if failed { b"failure" } else { b"success" }),
                    None => self.json.bytes(if failed { b"\"failure\"" } else { b"\"success\"" }),
                }
            }
            Encoding::Decimal => {
                self.json.key(&field.key);
                let start = self.json.len();
                self.text(field, itoa::Buffer::new().format(occurrence.signed(number)).as_bytes());
                if number == table.roles.visit_id {
                    identity.key = (start + 1, self.json.len() - start - 2);
                }
            }
            Encoding::String if field.masked => self.masked(field, occurrence.texts[index]),
            Encoding::String => {
                self.json.key(&field.key);
                self.text(field, occurrence.texts[index]);
            }
            Encoding::Strings => self.strings(field, &occurrence.strings),
            Encoding::Measures | Encoding::Dimensions => unreachable!("Table has no record field for lists"),
        }
    }

    /// Returns false, and writes nothing, outside the years 1 to 9999.
    #[inline]
    fn timestamp(&mut self, field: &RecordField, milliseconds: i64) -> bool {
        let Some(text) = self.formatter.quoted(milliseconds) else { return false };
        self.json.key(&field.key);
        self.json.prefix(text, LENGTH);
        true
    }

    #[inline]
    fn nanoseconds(&mut self, field: &RecordField, milliseconds: f64) {
        let nanoseconds = (milliseconds * 1e6).round_ties_even();
        if (-INTEGER_LIMIT..INTEGER_LIMIT).contains(&nanoseconds) {
            self.integer(field, nanoseconds as i64);
        } else {
            self.leave_out(field);
        }
    }

    #[inline]
    fn integer(&mut self, field: &RecordField, value: i64) {
        self.json.key(&field.key);
        self.json.integer(value);
    }

    #[inline]
    fn number(&mut self, field: &RecordField, value: f64) {
        if value.is_finite() {
            self.json.key(&field.key);
            self.json.number(value);
        } else {
            self.leave_out(field);
        }
    }

    /// Writes a string, hashed if that is configured.
    #[inline]
    fn text(&mut self, field: &RecordField, text: &[u8]) {
        if let Some(hasher) = &field.hasher {
            self.hashed(hasher, text);
        } else if !self.json.text(text) {
            self.issues.invalid_utf8 += 1;
        }
    }

    #[cold]
    fn hashed(&mut self, hasher: &Hasher, text: &[u8]) {
        let valid = String::from_utf8_lossy(text);
        self.issues.invalid_utf8 += u64::from(std::str::from_utf8(text).is_err());
        let digits = hasher.hash(valid.as_bytes());
        self.json.text(&digits);
    }

    fn masked(&mut self, field: &RecordField, text: &[u8]) {
        self.issues.invalid_utf8 += u64::from(std::str::from_utf8(text).is_err());
        match mask_ip(&String::from_utf8_lossy(text)) {
            Some(masked) => {
                self.json.key(&field.key);
                self.text(field, masked.as_bytes());
            }
            None => self.leave_out(field),
        }
    }

    fn strings(&mut self, field: &RecordField, strings: &[&[u8]]) {
        self.json.key(&field.key);
        self.json.byte(b'[');
        for (index, text) in strings.iter().enumerate() {
            if index > 0 {
                self.json.byte(b',');
            }
            self.text(field, text);
        }
        self.json.byte(b']');
    }

    /// Writes the measures or the dimensions.
    #[inline]
    fn list(&mut self, context: &Context<'_>, number: u32, occurrence: &Occurrence<'_>) {
        let [values, dimensions] = context.lists;
        if number == context.table.lists[0] {
            for (element, &value) in values.iter().zip(&occurrence.values) {
                if !element.dropped {
                    self.number(&element.field, value);
                }
            }
        } else {
            for (element, text) in dimensions.iter().zip(&occurrence.dimensions) {
                if element.dropped {
                    self.issues.invalid_utf8 += u64::from(std::str::from_utf8(text).is_err());
                } else {
                    self.json.key(&element.field.key);
                    self.text(&element.field, text);
                }
            }
        }
    }

    /// Writes the duration of a visit, endTime - startTime.
    fn duration(&mut self, field: &RecordField, occurrence: &Occurrence<'_>, table: &Table) {
        let roles = &table.roles;
        let milliseconds = i128::from(occurrence.signed(roles.end_time)) - i128::from(occurrence.signed(roles.start_time));
        match i64::try_from(milliseconds * 1_000_000) {
            Ok(nanoseconds) => self.integer(field, nanoseconds),
            Err(_) => self.leave_out(field),
        }
    }

    /// Counts a value that can't be encoded.
    #[cold]
    fn leave_out(&mut self, field: &RecordField) {
        *self.issues.left_out.entry(field.name.clone()).or_default() += 1;
    }

    /// Counts invalid UTF-8 in fields that are present but not written.
    #[cold]
    fn check_hidden(&mut self, table: &Table, occurrence: &Occurrence<'_>, hidden: u64) {
        for (number, field) in table.record_fields.iter().enumerate().filter(|(number, _)| hidden >> number & 1 == 1) {
            let strings = field.as_ref().is_some_and(|field| field.encoding == Encoding::Strings);
            let texts = if strings { occurrence.strings.as_slice() } else { &occurrence.texts[number..=number] };
            self.issues.invalid_utf8 += texts.iter().filter(|text| std::str::from_utf8(text).is_err()).count() as u64;
        }
    }
}
