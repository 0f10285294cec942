//! Posts with bytes changed, put in and taken out: none may panic, and whatever is mapped is sound.
//!
//! MUTATIONS says how many; `make test-native` runs many of them under AddressSanitizer, which also sees the crates that
//! numbers and digests are made with.
#![allow(missing_docs)]

mod common;

use common::{Plain, full, number, post, text, transcoder};
use transcoder::outline::{Limits, admit};
use transcoder::post::Mapped;
use transcoder::table::Policy;

/// xorshift: which mutations there are depends on the seed alone.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn mutate(body: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let place = random.below(body.len() + 1);
        let length = random.below(12).min(body.len() - place);
        match random.below(5) {
            0 if place < body.len() => body[place] = random.below(256) as u8,
            1 => drop(body.drain(place..place + length)),
            2 => drop(body.splice(place..place, body[place..place + length].to_vec())),
            3 => body.insert(place, [0, 1, 7, 0x7f, 0x80, 0xff][random.below(6)]),
            _ => {
                let start = random.below(other.len() + 1);
                let end = (start + random.below(40)).min(other.len());
                drop(body.splice(place..place + length, other[start..end].iter().copied()));
            }
        }
    }
}

fn sound(mapped: &Mapped<()>) {
    let json = &mapped.json[..mapped.length];
    let text = std::str::from_utf8(json).expect("records are UTF-8");
    assert_eq!(mapped.sizes.iter().sum::<i64>(), json.len() as i64);
    assert_eq!(text.lines().count(), mapped.sizes.len());
    assert_eq!(mapped.runs.iter().map(|run| run.records).sum::<usize>(), mapped.timestamps.len());
    let occurrences = mapped.runs.iter().map(|run| run.occurrences).sum::<u64>();
    assert_eq!(occurrences as usize, mapped.refused.len() + mapped.sizes.len());
    let mut end = 0;
    for ((&size, &(at, length)), &(key, key_length)) in mapped.sizes.iter().zip(&mapped.ids).zip(&mapped.keys) {
        assert!(json[at..at + length].starts_with(b"id-"));
        assert!(key >= end && key + key_length <= end + size as usize);
        end += size as usize;
        assert!(json[..end].ends_with(b"}\n"));
    }
}

#[test]
fn no_mutation_does_harm() {
    let number_of = std::env::var("MUTATIONS").map_or(20_000, |text| text.parse().expect("a number"));
    let seed = std::env::var("SEED").map_or(1, |text| text.parse().expect("a number"));
    println!("seed {seed}");
    let mut random = Random(seed);
    let policies = [Policy::Report, Policy::DeadLetter];
    let transcoders = policies.map(|missing| policies.map(|unexpected| transcoder(missing, unexpected)));
    let samples = [
        post(2, &[full(0), full(1 << 40), number(1, 5)]),
        [post(0, &[full(1 << 62)]), post(9, &vec![full(5); 3]), text(3, b"server"), number(2, 7)].concat(),
        post(1, &[[number(1, 1), text(6, &[0x40; 160]), text(7, b"x").repeat(9)].concat()]),
    ];
    let (mut taken, mut last) = (0, samples[0].clone());
    for case in 0..number_of {
        let mut body = samples[random.below(samples.len())].clone();
        mutate(&mut body, &last, &mut random);
        let limits = Limits { occurrences: 3, elements: 50, shared: 1 << 10, long: 64 };
        let wide = Limits { occurrences: 1 << 20, elements: 1 << 20, shared: 1 << 40, ..limits };
        let found = transcoders[random.below(2)][random.below(2)].transcode(&body, b"id-", &Plain);
        if let Ok(mapped) = &found {
            sound(mapped);
            taken += 1;
        }
        if let Some(count) = admit(&body, &wide) {
            assert!(admit(&body, &limits).is_none_or(|fewer| fewer == count));
            let mapped = found.unwrap_or_else(|_| panic!("case {case} is admitted, and can't be mapped"));
            assert_eq!(count, mapped.runs.iter().map(|run| run.occurrences).sum::<u64>());
        }
        last = body;
    }
    assert!(taken >= number_of / 20, "hardly any was a post");
}
