//! Maps posts to JSON records.
//!
//! The Python implementation, in btfeed/posts/admission.py and btfeed/records/plain_mapper.py, is the reference: both must
//! produce the same bytes. This crate gives no reason when it rejects a post: the caller then runs the Python
//! implementation, which raises the error with its message. The modules, in reading order:
//!
//! - `wire`: reads the protobuf wire format, as protobuf's own C parser (upb) does.
//! - `admission`: decides whether a body is a valid post within the limits, and counts its occurrences.
//! - `table`: the field table and the settings, which Python passes in. No field is named in this crate.
//! - `occurrence`: decodes an occurrence.
//! - `record`: writes an occurrence as a record, with `json`, `time` and `privacy`.
//! - `plan`: what all occurrences of a business transaction share. Python compiles it once per transaction.
//! - `post`: maps a whole post, with `layout`, which finds its transactions and occurrences; `mapped` is the result.
//! - `pool`: reuses the memory of records.
#![forbid(unsafe_code)]

pub mod admission;
pub mod json;
mod layout;
pub mod mapped;
pub mod occurrence;
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

/// Returns the BLAKE2b-256 digest of each body. With SIMD, several are hashed at once, which takes a third of the time.
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
