//! From the bytes of a post to records: what btfeed/post.py and btfeed/mapping.py do, at memory speed.
//!
//! Those two are the plain twins. They say what is right, and both must give the same bytes. To read it:
//!
//! - `wire` reads protobuf's wire format as protobuf's own C parser (upb) does;
//! - `outline` says whether a body is an acceptable post, within limits;
//! - `table` holds the field table and the settings, which Python hands in: no field is named here;
//! - `occurrence` decodes one occurrence, `record` writes its record, with `json`, `time` and `privacy`;
//! - `plan` holds what all occurrences of a business transaction share, which Python compiles once;
//! - `post` runs over a whole post and collects the columns and counts.
//!
//! Whatever is refused is refused without a reason: the caller asks the plain twin, which finds the words.
#![forbid(unsafe_code)]

pub mod json;
pub mod occurrence;
pub mod outline;
pub mod plan;
pub mod pool;
pub mod post;
pub mod privacy;
pub mod record;
pub mod table;
pub mod time;
pub mod wire;

use blake2b_simd::Params;
use blake2b_simd::many::{HashManyJob, hash_many};

/// BLAKE2b-256 of each of `bodies`. Where the processor can, several are worked on at a time, which costs a third.
#[must_use]
pub fn digests(bodies: &[&[u8]]) -> Vec<[u8; 32]> {
    let params = Params::new().hash_length(32).to_owned();
    let mut jobs: Vec<_> = bodies.iter().map(|body| HashManyJob::new(&params, body)).collect();
    hash_many(&mut jobs);
    jobs.iter().map(digest_of).collect()
}

fn digest_of(job: &HashManyJob<'_>) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(job.to_hash().as_bytes());
    digest
}
