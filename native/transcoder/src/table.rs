//! The field table and the settings, compiled from what Python passes in. btfeed/records/schema.py names the fields.

use std::sync::Arc;

use crate::json::Key;
use crate::privacy::Hasher;
use crate::wire::{DELIMITED, FIXED64, VARINT};

/// The limit of field numbers, so that the bits of a `u64` are a set of fields.
pub const FIELDS: usize = 64;
/// The number of event categories.
pub const CATEGORIES: usize = 4;
/// The category of transactions of unknown type.
pub const UNKNOWN_CATEGORY: usize = 3;

/// How a record writes a value. btfeed/records/schema.py has the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Milliseconds since the epoch, as an RFC 3339 timestamp.
    Timestamp,
    /// A number of milliseconds, as an integer number of nanoseconds.
    Nanoseconds,
    /// An integer, as a string of digits.
    Decimal,
    /// A flag that says whether something failed, as `failure` or `success`.
    Outcome,
    /// A string.
    String,
    /// A double.
    Number,
    /// An integer.
    Integer,
    /// A flag.
    Boolean,
    /// An array of strings.
    Strings,
    /// A list of numbers, each as a field with its own name.
    Measures,
    /// A list of strings, each as a field with its own name.
    Dimensions,
}

impl Encoding {
    /// Returns the encoding with this name in the schema.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "timestamp" => Self::Timestamp,
            "nanoseconds" => Self::Nanoseconds,
            "decimal" => Self::Decimal,
            "outcome" => Self::Outcome,
            "string" => Self::String,
            "number" => Self::Number,
            "integer" => Self::Integer,
            "boolean" => Self::Boolean,
            "strings" => Self::Strings,
            "measures" => Self::Measures,
            "dimensions" => Self::Dimensions,
            _ => return None,
        })
    }
}

/// A row of the field table.
#[derive(Clone, Debug)]
pub struct Field {
    /// The number in proto/bt.proto, below `FIELDS`.
    pub number: u32,
    /// The name in proto/bt.proto.
    pub name: String,
    /// The type in proto/bt.proto: `int32`, `int64`, `double`, `bool` or `string`.
    pub kind: String,
    /// One letter for each of purepath, user_action and visit: Y if the field is required, N if it is forbidden, O if it is
    /// optional.
    pub presence: String,
    /// The name in a record.
    pub record: String,
    /// The encoding in a record.
    pub encoding: Encoding,
}

/// The fields and the category that have a meaning in this crate.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    /// The number of the field that every occurrence must have. It is the record's timestamp.
    pub start_time: u32,
    /// The number of the field from which, with the start time, the duration of a visit is computed.
    pub end_time: u32,
    /// The number of the duration field.
    pub duration: u32,
    /// The number of the field that becomes the record's key.
    pub visit_id: u32,
    /// The category of visits, whose duration is computed.
    pub visit: usize,
}

/// What to do with an occurrence that violates a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Deliver it.
    Report,
    /// Refuse it, with its record and the reason.
    DeadLetter,
    /// Deliver it without the field.
    Drop,
}

impl Policy {
    /// Returns the policy with this name in the configuration.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "report" => Self::Report,
            "dead-letter" => Self::DeadLetter,
            "drop" => Self::Drop,
            _ => return None,
        })
    }
}

/// The settings of mapping, privacy and validation.
#[derive(Clone)]
pub struct Settings {
    /// The beginning of every record, up to the value of `event.id`.
    pub head: Vec<u8>,
    /// The policy for a required field that is missing.
    pub missing: Policy,
    /// The policy for a forbidden field that is present.
    pub unexpected: Policy,
    /// Record fields to leave out.
    pub drop: Vec<String>,
    /// Record fields to hash.
    pub hash: Vec<String>,
    /// The key of the hash.
    pub key: Vec<u8>,
    /// Record fields that hold an IP address to mask.
    pub mask: Vec<String>,
}

/// How to decode a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Skip it: the table does not have it, or has another wire type.
    Unknown,
    /// Keep a varint as a 64-bit integer.
    Int64,
    /// Keep a varint as a signed 32-bit integer.
    Int32,
    /// Keep a varint as a flag.
    Bool,
    /// Keep a double.
    Double,
    /// Keep a string.
    Text,
    /// Append a string to the array of strings.
    Strings,
    /// Append a string to the dimensions.
    Dimensions,
    /// Append a double to the measures.
    Value,
    /// Append several doubles to the measures.
    PackedValues,
}

/// How to write a field of a record.
#[derive(Clone, Debug)]
pub struct RecordField {
    /// The name.
    pub name: String,
    /// The encoded name.
    pub key: Key,
    /// The encoding of the value.
    pub encoding: Encoding,
    /// Hashes the value, if that is configured.
    pub hasher: Option<Arc<Hasher>>,
    /// Whether the value is an IP address to mask.
    pub masked: bool,
}

/// The compiled field table and settings.
#[derive(Clone)]
pub struct Table {
    /// The field table.
    pub fields: Vec<Field>,
    /// The fields with a meaning in this crate.
    pub roles: Roles,
    /// The settings.
    pub settings: Settings,
    /// By field number, how to write it. `None` for the lists, and for numbers that the table does not have.
    pub record_fields: Vec<Option<RecordField>>,
    /// The fields that the settings drop, as bits.
    pub dropped: u64,
    /// By category, the required fields as bits, without measures and dimensions.
    pub required: [u64; CATEGORIES],
    /// By category, the forbidden fields as bits.
    pub forbidden: [u64; CATEGORIES],
    /// By category, whether there must be at least as many measures, and as many dimensions, as names.
    pub required_lists: [[bool; 2]; CATEGORIES],
    /// The field numbers of the measures and of the dimensions.
    pub lists: [u32; 2],
    actions: Vec<Action>,
    hasher: Arc<Hasher>,
}

impl Table {
    /// Compiles the field table and the settings. The error says what is wrong with the field table.
    pub fn new(fields: Vec<Field>, roles: Roles, settings: Settings) -> Result<Self, String> {
        if fields.iter().any(|field| field.number == 0 || field.number as usize >= FIELDS)
            || !fields.is_sorted_by(|one, other| one.number < other.number)
        {
            return Err(format!("field numbers must ascend from 1, and be below {FIELDS}"));
        }
        let list = |encoding| {
            let numbers: Vec<_> =
                fields.iter().filter(|field| field.encoding == encoding).map(|field| field.number).collect();
            match numbers[..] {
                [number] => Ok(number),
                _ => Err(format!("the field table has not one field of encoding {encoding:?} but {}", numbers.len())),
            }
        };
        let lists = [list(Encoding::Measures)?, list(Encoding::Dimensions)?];
        list(Encoding::Strings)?;
        let mut table = Self {
            record_fields: vec![None; FIELDS],
            dropped: 0,
            required: [0; CATEGORIES],
            forbidden: [0; CATEGORIES],
            required_lists: [[false; 2]; CATEGORIES],
            lists,
            actions: vec![Action::Unknown; FIELDS << 3],
            roles,
            hasher: Arc::new(Hasher::new(&settings.key)),
            settings,
            fields: Vec::new(),
        };
        for field in &fields {
            table.add(field)?;
        }
        table.fields = fields;
        Ok(table)
    }

    /// Returns how to decode a field with this tag.
    #[inline]
    #[must_use]
    pub fn action(&self, tag: u32) -> Action {
        self.actions.get(tag as usize).copied().unwrap_or(Action::Unknown)
    }

    fn add(&mut self, field: &Field) -> Result<(), String> {
        let bit = 1 << field.number;
        self.add_rules(field, bit);
        let mut decode = |wire_type, action| self.actions[(field.number << 3 | wire_type) as usize] = action;
        match (field.kind.as_str(), field.encoding) {
            ("double", Encoding::Measures) => {
                decode(FIXED64, Action::Value);
                decode(DELIMITED, Action::PackedValues);
            }
            ("string", Encoding::Dimensions) => decode(DELIMITED, Action::Dimensions),
            ("string", Encoding::Strings) => decode(DELIMITED, Action::Strings),
            ("string", Encoding::String) => decode(DELIMITED, Action::Text),
            ("double", Encoding::Number | Encoding::Nanoseconds) => decode(FIXED64, Action::Double),
            ("int64", Encoding::Timestamp | Encoding::Decimal) => decode(VARINT, Action::Int64),
            ("int32", Encoding::Integer) => decode(VARINT, Action::Int32),
            ("bool", Encoding::Boolean | Encoding::Outcome) => decode(VARINT, Action::Bool),
            (kind, encoding) => return Err(format!("field {}: {kind} can't be {encoding:?}", field.name)),
        }
        if !self.lists.contains(&field.number) {
            self.record_fields[field.number as usize] = Some(self.record_field(&field.record, field.encoding));
            if self.settings.drop.contains(&field.record) {
                self.dropped |= bit;
            }
        }
        Ok(())
    }

    /// Returns how to write a record field with this name.
    #[must_use]
    pub fn record_field(&self, name: &str, encoding: Encoding) -> RecordField {
        let settings = &self.settings;
        RecordField {
            name: name.to_owned(),
            key: Key::new(name),
            encoding,
            hasher: settings.hash.iter().any(|given| given == name).then(|| Arc::clone(&self.hasher)),
            masked: settings.mask.iter().any(|given| given == name),
        }
    }

    fn add_rules(&mut self, field: &Field, bit: u64) {
        for (category, presence) in field.presence.chars().enumerate().take(UNKNOWN_CATEGORY) {
            let list = self.lists.iter().position(|number| *number == field.number);
            match (presence, list, field.encoding) {
                ('N', ..) => self.forbidden[category] |= bit,
                ('Y', Some(list), _) => self.required_lists[category][list] = true,
                ('Y', None, Encoding::Strings) => {} // absent and empty look the same on the wire
                ('Y', None, _) => self.required[category] |= bit,
                _ => {}
            }
        }
    }
}
