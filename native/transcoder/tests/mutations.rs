//! Mutated posts never cause a panic, and those that can be mapped give consistent results.
//!
//! The environment variable MUTATIONS sets the number of mutations, SEED the seed. `make test-native` runs many under
//! AddressSanitizer, which also checks the dependencies.
#![allow(missing_docs)]

mod common;

use common::{Plain, full, number, post, text, transcoder};
use transcoder::admission::{Limits, admit};
use transcoder::mapped::Mapped;
use transcoder::table::Policy;

/// The xorshift generator, so that a seed always gives the same mutations.
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

fn check(mapped: &Mapped<()>) {
    let json = &mapped.parts[0].bytes[..mapped.length];
    let text = std::str::from_utf8(json).expect("records are UTF-8");
    assert_eq!(mapped.sizes.iter().sum::<i64>(), json.len() as i64);
    assert_eq!(text.lines().count(), mapped.sizes.len());
    assert_eq!(mapped.transactions.iter().map(|transaction| transaction.records).sum::<usize>(), mapped.timestamps.len());
    let occurrences = mapped.transactions.iter().map(|transaction| transaction.occurrences).sum::<u64>();
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
fn mutated_posts_give_consistent_results_or_none() {
    let mutations = std::env::var("MUTATIONS").map_or(20_000, |text| text.parse().expect("a number"));
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
    for case in 0..mutations {
        let mut body = samples[random.below(samples.len())].clone();
        mutate(&mut body, &last, &mut random);
        let limits = Limits { occurrences: 3, elements: 50, shared: 1 << 10, long: 64 };
        let wide = Limits { occurrences: 1 << 20, elements: 1 << 20, shared: 1 << 40, ..limits };
        let found = transcoders[random.below(2)][random.below(2)].transcode(&body, b"id-", &Plain);
        if let Ok(mapped) = &found {
            check(mapped);
            taken += 1;
        }
        if let Some(count) = admit(&body, &wide) {
            assert!(admit(&body, &limits).is_none_or(|fewer| fewer == count));
            let mapped = found.unwrap_or_else(|_| panic!("case {case} is admitted but can't be mapped"));
            assert_eq!(count, mapped.transactions.iter().map(|transaction| transaction.occurrences).sum::<u64>());
        }
        last = body;
    }
    assert!(taken >= mutations / 20, "too few mutations could be mapped: {taken} of {mutations}");
}
