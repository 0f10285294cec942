//! A small field table with every encoding, a compiler without Python, and functions that encode posts.

use transcoder::plan::{Compiled, Compiler, List};
use transcoder::post::Transcoder;
use transcoder::table::{Encoding, Field, Policy, Roles, Settings, Table};

/// Number, type and encoding. The names are invented: no test here depends on the real ones.
const FIELDS: &[(u32, &str, Encoding)] = &[
    (1, "int64", Encoding::Timestamp),
    (2, "int64", Encoding::Timestamp),
    (6, "double", Encoding::Measures),
    (7, "string", Encoding::Dimensions),
    (8, "string", Encoding::String),
    (11, "int64", Encoding::Decimal),
    (15, "double", Encoding::Number),
    (21, "double", Encoding::Nanoseconds),
    (22, "bool", Encoding::Outcome),
    (23, "int32", Encoding::Integer),
    (25, "string", Encoding::String),
    (32, "bool", Encoding::Boolean),
    (36, "string", Encoding::Strings),
];

/// Returns a table whose settings use every feature, with these policies.
pub fn table(missing: Policy, unexpected: Policy) -> Table {
    let field = |&(number, kind, encoding): &(u32, &str, Encoding)| Field {
        number,
        name: format!("field{number}"),
        kind: kind.to_owned(),
        presence: if number < 8 { "YYY" } else { "NYO" }.to_owned(),
        record: format!("f{number}"),
        encoding,
    };
    let settings = Settings {
        head: br#"{"event.id":""#.to_vec(),
        missing,
        unexpected,
        drop: vec!["f32".to_owned(), "d.b".to_owned()],
        hash: vec!["f8".to_owned(), "d.a".to_owned()],
        key: b"secret".to_vec(),
        mask: vec!["f25".to_owned()],
    };
    let roles = Roles { start_time: 1, end_time: 2, duration: 21, visit_id: 11, visit: 2 };
    Table::new(FIELDS.iter().map(field).collect(), roles, settings).expect("the table is valid")
}

/// Names the first two measures and dimensions a and b, and the others by number. Takes the category from the last byte.
pub struct Plain;

impl Compiler for Plain {
    type Plan = ();
    type Error = ();

    fn compile(&self, _: Option<&[u8]>, shared: &[u8]) -> Result<Compiled<()>, ()> {
        let category = usize::from(shared.last().copied().unwrap_or(3)) % 4;
        let names = ["m", "d"].map(|list| vec![format!("{list}.a"), format!("{list}.b")]);
        Ok(Compiled { python: (), category, tail: b"\"".to_vec(), invalid_utf8: 0, names })
    }

    fn names(&self, _: &(), list: List, count: usize) -> Result<Vec<String>, ()> {
        let prefix = if list == List::Values { "m" } else { "d" };
        let names = ["a".to_owned(), "b".to_owned()].into_iter().chain((3..).map(|number: usize| number.to_string()));
        Ok(names.take(count).map(|name| format!("{prefix}.{name}")).collect())
    }
}

pub fn transcoder(missing: Policy, unexpected: Policy) -> Transcoder<()> {
    Transcoder::new(table(missing, unexpected))
}

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

pub fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

pub fn double(field: u64, value: f64) -> Vec<u8> {
    [varint(field << 3 | 1), value.to_le_bytes().to_vec()].concat()
}

pub fn text(field: u64, content: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

/// Returns a post of one transaction with this type and these occurrences.
pub fn post(category: u64, occurrences: &[Vec<u8>]) -> Vec<u8> {
    let occurrences: Vec<u8> = occurrences.iter().flat_map(|content| text(6, content)).collect();
    text(1, &[text(1, b"name"), number(2, category), occurrences].concat())
}

/// Returns an occurrence with every field, and with unknown ones.
pub fn full(start: u64) -> Vec<u8> {
    [
        number(1, start),
        number(2, start + 5),
        double(6, 0.5),
        text(6, &[1.5_f64.to_le_bytes(), 1e300_f64.to_le_bytes()].concat()),
        text(7, b"gold"),
        text(7, b"\xffbroken"),
        text(7, "Stra\u{df}e \"5\"\n".as_bytes()),
        text(8, b"/search?q=shoes"),
        number(11, 8_589_934_592),
        double(15, 12.25),
        double(21, 0.000_000_5),
        number(22, 1),
        number(23, u64::MAX),
        text(25, b"10.1.2.3"),
        number(32, 0),
        text(36, b"one"),
        text(36, b"two"),
        [varint(50 << 3 | 3), number(1, 1), varint(50 << 3 | 4)].concat(),
        number(63, 1),
    ]
    .concat()
}
