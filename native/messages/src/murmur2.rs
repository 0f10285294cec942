//! The murmur2 hash, as Kafka's Java client computes it in `org.apache.kafka.common.utils.Utils.murmur2`.

const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

/// Hashes `key` to a number from 0 to 2^31 - 1. The sign bit is cleared, as `Utils.toPositive` does.
#[must_use]
pub fn hash(key: &[u8]) -> u32 {
    let (words, rest) = key.as_chunks::<4>();
    let mut h = SEED ^ key.len() as u32;
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        h = (h ^ u32::from_le_bytes(last)).wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    (h ^ h >> 15) & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use super::hash;

    #[test]
    fn hashes_match_the_tests_of_the_java_client() {
        for (key, value) in [("21", -973_932_308), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536_i32)]
        {
            assert_eq!(hash(key.as_bytes()), value as u32 & 0x7fff_ffff);
        }
    }
}
