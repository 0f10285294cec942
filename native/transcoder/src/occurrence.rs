//! Decodes an occurrence by the rules of proto2: fields come in any order, and the last value of a field wins.

use crate::table::{Action, FIELDS, Table};
use crate::wire::{MAX_DEPTH, Reader};

/// The fields of an occurrence. Reused for the next one, so that its lists keep their capacity.
pub struct Occurrence<'a> {
    /// The fields that are present, as bits by field number.
    pub present: u64,
    /// Integers, flags, and the bits of doubles, by field number. Undefined for fields that are not present.
    pub numbers: [u64; FIELDS],
    /// Strings, by field number. Undefined for fields that are not present.
    pub texts: [&'a [u8]; FIELDS],
    /// The measures.
    pub values: Vec<f64>,
    /// The dimensions.
    pub dimensions: Vec<&'a [u8]>,
    /// The field that is an array of strings.
    pub strings: Vec<&'a [u8]>,
    /// The number of unknown fields.
    pub unknown: u64,
}

impl Default for Occurrence<'_> {
    fn default() -> Self {
        Self {
            present: 0,
            numbers: [0; FIELDS],
            texts: [&[]; FIELDS],
            values: Vec::new(),
            dimensions: Vec::new(),
            strings: Vec::new(),
            unknown: 0,
        }
    }
}

impl<'a> Occurrence<'a> {
    /// Returns whether the field is present.
    #[inline]
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        self.present >> number & 1 == 1
    }

    /// Returns an integer field.
    #[inline]
    #[must_use]
    pub fn signed(&self, number: u32) -> i64 {
        self.numbers[number as usize] as i64
    }

    /// Replaces the fields by those of another occurrence. Returns `None` where upb rejects it.
    pub fn read(&mut self, table: &Table, content: &'a [u8]) -> Option<()> {
        self.present = 0;
        self.unknown = 0;
        self.values.clear();
        self.dimensions.clear();
        self.strings.clear();
        let mut reader = Reader::new(content);
        while !reader.is_empty() {
            let tag = reader.tag()?;
            let number = (tag >> 3) as usize % FIELDS;
            match table.action(tag) {
                Action::Int64 => self.numbers[number] = reader.varint()?,
                Action::Int32 => self.numbers[number] = i64::from(reader.varint()? as i32) as u64,
                Action::Bool => self.numbers[number] = u64::from(reader.varint()? != 0),
                Action::Double => self.numbers[number] = reader.fixed64()?,
                Action::Text => self.texts[number] = reader.delimited()?,
                Action::Strings => self.strings.push(reader.delimited()?),
                Action::Dimensions => self.dimensions.push(reader.delimited()?),
                Action::Value => self.values.push(f64::from_bits(reader.fixed64()?)),
                Action::PackedValues => {
                    let (values, rest) = reader.delimited()?.as_chunks::<8>();
                    if !rest.is_empty() {
                        return None;
                    }
                    self.values.extend(values.iter().map(|bytes| f64::from_le_bytes(*bytes)));
                    if values.is_empty() {
                        continue; // an empty list counts as absent
                    }
                }
                Action::Unknown => {
                    reader.skip(tag, MAX_DEPTH - 2)?;
                    self.unknown += 1;
                    continue;
                }
            }
            self.present |= 1 << number;
        }
        Some(())
    }
}
