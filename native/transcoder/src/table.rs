//! The field table and the settings, as Python hands them in: btfeed/schema.py is the only place that names fields.

use std::sync::Arc;

use crate::json::Key;
use crate::privacy::Hasher;
use crate::wire::{DELIMITED, FIXED64, VARINT};

/// Field numbers are below this, so that a set of fields is the bits of a word.
pub const FIELDS: usize = 64;
/// Event categories by number; the last is of transactions whose type is not known.
pub const CATEGORIES: usize = 4;
/// The category of transactions whose type is not known.
pub const UNKNOWN: usize = 3;

/// How a record writes a value; named as in btfeed/schema.py.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Milliseconds, as RFC 3339.
    Timestamp,
    /// Milliseconds, as integer nanoseconds.
    Nanoseconds,
    /// An integer, as a string.
    Decimal,
    /// A flag, as `failure` or `success`.
    Outcome,
    /// Text.
    String,
    /// A double.
    Number,
    /// An integer.
    Integer,
    /// A flag.
    Boolean,
    /// An array of texts.
    Strings,
    /// A number each, under names of their own.
    Measures,
    /// A text each, under names of their own.
    Dimensions,
}

impl Encoding {
    /// The encoding that the schema calls `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
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
    /// Below `FIELDS`.
    pub number: u32,
    /// In proto/bt.proto.
    pub name: String,
    /// `int32`, `int64`, `double`, `bool` or `string`.
    pub kind: String,
    /// For purepath, user_action and visit in turn: Y it must be there, N it must not, O it may.
    pub presence: String,
    /// In a record.
    pub record: String,
    /// In a record.
    pub encoding: Encoding,
}

/// The numbers of fields that mean more than their value.
#[derive(Clone, Copy, Debug)]
pub struct Roles {
    /// Every occurrence has it.
    pub start_time: u32,
    /// With the start it gives a visit's duration.
    pub end_time: u32,
    /// Of a visit, computed.
    pub duration: u32,
    /// The key of a record.
    pub visit_id: u32,
    /// The category whose duration is computed.
    pub visit: usize,
}

/// What happens to an occurrence that breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It is delivered.
    Report,
    /// It is refused.
    DeadLetter,
    /// It is delivered without the field.
    Drop,
}

impl Policy {
    /// The policy that the configuration calls `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "report" => Self::Report,
            "dead-letter" => Self::DeadLetter,
            "drop" => Self::Drop,
            _ => return None,
        })
    }
}

/// What the configuration says.
#[derive(Clone)]
pub struct Settings {
    /// What a record begins with, up to the digest in its event.id.
    pub head: Vec<u8>,
    /// Of a field that must be there.
    pub missing: Policy,
    /// Of a field that must not.
    pub unexpected: Policy,
    /// Record fields to leave out.
    pub drop: Vec<String>,
    /// Record fields to hash.
    pub hash: Vec<String>,
    /// The secret of the hash.
    pub key: Vec<u8>,
    /// Record fields that hold an address whose end is made zero.
    pub mask: Vec<String>,
    /// Attributes that a field of the feed overrides: name, and value as JSON.
    pub defaults: Vec<(String, Vec<u8>)>,
}

/// What the decoder does with a field, by its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Not in the table, or in another wire type than it says.
    Unknown,
    /// Keep 64 bits of a varint.
    Int64,
    /// Keep 32 bits of a varint, with their sign.
    Int32,
    /// Keep whether a varint is other than zero.
    Bool,
    /// Keep eight bytes.
    Double,
    /// Keep the content.
    Text,
    /// Append a text to the array of strings.
    Strings,
    /// Append a text to the dimensions.
    Dimensions,
    /// Append eight bytes to the values.
    Value,
    /// Append many to the values.
    PackedValues,
}

/// How the value of one record field is written.
#[derive(Clone, Debug)]
pub struct Step {
    /// The record field.
    pub name: String,
    /// Its name and a colon, as a record has it.
    pub key: Key,
    /// How the value is written.
    pub encoding: Encoding,
    /// The value is hashed.
    pub hasher: Option<Arc<Hasher>>,
    /// The value is an address whose end is made zero.
    pub masked: bool,
    /// What is written where the value can't be: the value of the attribute of that name.
    pub default: Option<Vec<u8>>,
}

/// All that is the same for every post.
#[derive(Clone)]
pub struct Table {
    /// The field table.
    pub fields: Vec<Field>,
    /// Fields that mean more than their value.
    pub roles: Roles,
    /// What the configuration says.
    pub settings: Settings,
    /// By field number, for those that are written under a name of their own.
    pub steps: Vec<Option<Step>>,
    /// Fields that no record has.
    pub dropped: u64,
    /// By category: fields that must be there, values and dimensions excepted.
    pub required: [u64; CATEGORIES],
    /// By category: fields that must not be there.
    pub forbidden: [u64; CATEGORIES],
    /// By category: whether there must be as many values, and as many dimensions, as names.
    pub counted: [[bool; 2]; CATEGORIES],
    /// Numbers of the values and of the dimensions.
    pub lists: [u32; 2],
    actions: Vec<Action>,
    hasher: Arc<Hasher>,
}

impl Table {
    /// Compiles the field table and the settings. Says what is wrong with them.
    pub fn new(fields: Vec<Field>, roles: Roles, settings: Settings) -> Result<Self, String> {
        if fields.iter().any(|field| field.number == 0 || field.number as usize >= FIELDS)
            || !fields.is_sorted_by(|one, other| one.number < other.number)
        {
            return Err(format!("field numbers ascend, and are below {FIELDS}"));
        }
        let list = |encoding| {
            let mut found = fields.iter().filter(|field| field.encoding == encoding);
            match (found.next(), found.next()) {
                (Some(field), None) => Ok(field.number),
                _ => Err(format!("there is not one field of encoding {encoding:?}")),
            }
        };
        let lists = [list(Encoding::Measures)?, list(Encoding::Dimensions)?];
        list(Encoding::Strings)?;
        let mut table = Self {
            steps: vec![None; FIELDS],
            dropped: 0,
            required: [0; CATEGORIES],
            forbidden: [0; CATEGORIES],
            counted: [[false; 2]; CATEGORIES],
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

    /// What is done with a field that has this tag.
    #[inline]
    #[must_use]
    pub fn action(&self, tag: u32) -> Action {
        self.actions.get(tag as usize).copied().unwrap_or(Action::Unknown)
    }

    fn add(&mut self, field: &Field) -> Result<(), String> {
        let bit = 1 << field.number;
        self.rule(field, bit);
        let mut act = |wire_type, action| self.actions[(field.number << 3 | wire_type) as usize] = action;
        match (field.kind.as_str(), field.encoding) {
            ("double", Encoding::Measures) => {
                act(FIXED64, Action::Value);
                act(DELIMITED, Action::PackedValues);
            }
            ("string", Encoding::Dimensions) => act(DELIMITED, Action::Dimensions),
            ("string", Encoding::Strings) => act(DELIMITED, Action::Strings),
            ("string", Encoding::String) => act(DELIMITED, Action::Text),
            ("double", Encoding::Number | Encoding::Nanoseconds) => act(FIXED64, Action::Double),
            ("int64", Encoding::Timestamp | Encoding::Decimal) => act(VARINT, Action::Int64),
            ("int32", Encoding::Integer) => act(VARINT, Action::Int32),
            ("bool", Encoding::Boolean | Encoding::Outcome) => act(VARINT, Action::Bool),
            (kind, encoding) => return Err(format!("field {}: {kind} can't be {encoding:?}", field.name)),
        }
        if !self.lists.contains(&field.number) {
            self.steps[field.number as usize] = Some(self.step(&field.record, field.encoding));
            if self.settings.drop.contains(&field.record) {
                self.dropped |= bit;
            }
        }
        Ok(())
    }

    /// How a record field of this name is written.
    #[must_use]
    pub fn step(&self, name: &str, encoding: Encoding) -> Step {
        let settings = &self.settings;
        let default = settings.defaults.iter().find(|(given, _)| given == name);
        Step {
            name: name.to_owned(),
            key: Key::new(name),
            encoding,
            hasher: settings.hash.iter().any(|given| given == name).then(|| Arc::clone(&self.hasher)),
            masked: settings.mask.iter().any(|given| given == name),
            default: default.map(|(_, json)| json.clone()),
        }
    }

    fn rule(&mut self, field: &Field, bit: u64) {
        for (category, presence) in field.presence.chars().enumerate().take(UNKNOWN) {
            let list = self.lists.iter().position(|number| *number == field.number);
            match (presence, list, field.encoding) {
                ('N', ..) => self.forbidden[category] |= bit,
                ('Y', Some(list), _) => self.counted[category][list] = true,
                ('Y', None, Encoding::Strings) => {} // its absence can't be told from an empty one
                ('Y', None, _) => self.required[category] |= bit,
                _ => {}
            }
        }
    }
}
