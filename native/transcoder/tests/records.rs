//! Records of posts. Python's tests compare them with those of the Python implementation.
#![allow(missing_docs)]

mod common;

use common::{Plain, double, full, number, post, text, transcoder};
use transcoder::admission::{Limits, admit};
use transcoder::json::Writer;
use transcoder::mapped::Mapped;
use transcoder::post::Error;
use transcoder::privacy::{Hasher, mask_ip};
use transcoder::table::Policy;
use transcoder::time::{Formatter, LENGTH};

const START: u64 = 1_358_330_757_840;
const LIMITS: Limits = Limits { occurrences: 10, elements: 100, shared: 10_000, long: 64 };

fn mapped(body: &[u8], missing: Policy, unexpected: Policy) -> Mapped<()> {
    transcoder(missing, unexpected).transcode(body, b"id-", &Plain).unwrap_or_else(|_| panic!("the post is malformed"))
}

fn lines(mapped: &Mapped<()>) -> Vec<String> {
    let text = std::str::from_utf8(&mapped.parts[0].bytes[..mapped.length]).expect("records are UTF-8");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn every_encoding_is_written() {
    let found = mapped(&post(2, &[full(START)]), Policy::Report, Policy::Report);
    let hashed = |text: &[u8]| String::from_utf8(Hasher::new(b"secret").hash(text).to_vec()).expect("hex");
    let expected = [
        r#"{"event.id":"id-0","f1":"2013-01-16T10:05:57.840Z","f2":"2013-01-16T10:05:57.845Z""#,
        &format!(r#","m.a":0.5,"m.b":1.5,"m.3":1e300,"d.a":"{}","d.3":"Straße \"5\"\n""#, hashed(b"gold")),
        &format!(r#","f8":"{}","f11":"8589934592","f15":12.25"#, hashed(b"/search?q=shoes")),
        r#","f21":0,"f22":"failure","f23":-1,"f25":"10.1.2.0","f36":["one","two"]}"#,
    ];
    assert_eq!(lines(&found), [expected.concat()]);
    assert_eq!((found.unknown, found.issues.invalid_utf8, found.mismatches), ([0, 0, 2], 1, [[0, 1], [0, 1]]));
    assert_eq!(found.keys, [(found.length - 1 - expected[3].len() - r#"8589934592","f15":12.25"#.len(), 10)]);
}

#[test]
fn the_last_value_of_a_field_wins() {
    let twice = [number(1, START), number(11, 1), double(15, 1.0), number(11, 2), number(1, 0)].concat();
    let found = mapped(&post(3, &[twice]), Policy::Report, Policy::Report);
    assert_eq!(lines(&found), [r#"{"event.id":"id-0","f1":"1970-01-01T00:00:00.000Z","f11":"2","f15":1.0}"#]);
}

#[test]
fn occurrences_that_violate_a_rule_are_refused_with_their_record() {
    let short = [number(1, START), text(8, b"x")].concat();
    let found = mapped(&post(0, &[full(1 << 62), short, full(START)]), Policy::DeadLetter, Policy::DeadLetter);
    assert_eq!((found.sizes.len(), found.length), (0, 0));
    let violations = |index: usize| found.refused[index].violations.iter().map(|(rule, field)| format!("{rule} {field}"));
    assert_eq!(violations(0).count(), 0);
    assert!(found.refused[0].body.starts_with(br#"{"event.id":"id-0","f1":4611686018427387904,"#));
    assert_eq!(
        violations(1).collect::<Vec<_>>(),
        ["missing field2", "missing field6", "missing field7", "unexpected field8"]
    );
    assert_eq!((found.refused[1].id.as_slice(), found.refused[2].key.as_slice()), (&b"id-1"[..], &b"8589934592"[..]));
}

#[test]
fn truncated_posts_are_malformed() {
    let body = post(2, &[full(START)]);
    let whole = [0, body.len()];
    for end in 0..=body.len() {
        let found = transcoder(Policy::Report, Policy::Report).transcode(&body[..end], b"id-", &Plain);
        assert_eq!(!matches!(found, Err(Error::Malformed)), whole.contains(&end), "{end} bytes");
        assert_eq!(admit(&body[..end], &LIMITS).is_some(), whole.contains(&end), "{end} bytes");
    }
}

#[test]
fn limits_are_inclusive() {
    let one = number(1, START);
    assert_eq!(admit(&post(0, &vec![one.clone(); 10]), &LIMITS), Some(10));
    assert_eq!(admit(&post(0, &vec![one.clone(); 11]), &LIMITS), None);
    let long = |fields| post(0, &[[one.clone(), text(9, &[0; 64]), number(9, 0).repeat(fields)].concat()]);
    assert_eq!(admit(&long(96), &LIMITS), Some(1));
    assert_eq!(admit(&long(97), &LIMITS), None);
}

#[test]
fn dates_match_the_gregorian_calendar() {
    let mut formatter = Formatter::default();
    let (mut year, mut day, mut expected) = (1, 0, 0_i64);
    let lengths = |year: i64| {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    };
    for milliseconds in (-62_135_596_800_000..253_402_300_800_000_i64).step_by(86_400_000) {
        if expected == 0 {
            expected = lengths(year).iter().sum();
            day = 0;
        }
        let (mut month, mut of_month) = (0, day);
        while of_month >= lengths(year)[month] {
            of_month -= lengths(year)[month];
            month += 1;
        }
        let text = format!("\"{year:04}-{:02}-{:02}T00:00:00.000Z\"", month + 1, of_month + 1);
        assert_eq!(formatter.quoted(milliseconds).map(|found| found[..LENGTH].to_vec()), Some(text.into_bytes()));
        day += 1;
        expected -= 1;
        year += i64::from(expected == 0);
    }
    assert!(formatter.quoted(253_402_300_800_000).is_none() && formatter.quoted(-62_135_596_800_001).is_none());
}

#[test]
fn special_characters_are_escaped_at_every_position() {
    for length in 0..40 {
        for place in 0..length {
            for byte in 0..=255_u8 {
                let mut text = vec![b'a'; length];
                text[place] = byte;
                let mut json = Writer::default();
                assert_eq!(json.text(&text), byte < 0x80);
                let expected = match byte {
                    b'"' | b'\\' => format!("\\{}", byte as char),
                    0x08 => "\\b".to_owned(),
                    0x09 => "\\t".to_owned(),
                    0x0a => "\\n".to_owned(),
                    0x0c => "\\f".to_owned(),
                    0x0d => "\\r".to_owned(),
                    0..0x20 => format!("\\u{byte:04x}"),
                    0x80.. => "\u{fffd}".to_owned(),
                    _ => (byte as char).to_string(),
                };
                let (before, after) = ("a".repeat(place), "a".repeat(length - place - 1));
                assert_eq!(json.as_bytes(), format!("\"{before}{expected}{after}\"").as_bytes());
            }
        }
    }
}

#[test]
fn ip_addresses_are_masked() {
    let expected = [
        ("1.2.3.4", Some("1.2.3.0")),
        ("2001:db8:1:2::5%eth0", Some("2001:db8:1::")),
        ("::ffff:1.2.3.4", Some("::")),
        ("1.2.3", None),
        ("01.2.3.4", None),
        ("", None),
    ];
    for (address, masked) in expected {
        assert_eq!(mask_ip(address).as_deref(), masked, "{address}");
    }
}
