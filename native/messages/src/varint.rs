//! Variable-length integers and length-prefixed bytes, as Kafka's record format encodes them.

/// Appends `value` in zigzag encoding, seven bits per byte, lowest bits first.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut left = zigzag(value);
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// Appends the length of `bytes`, then `bytes`.
#[inline]
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

#[inline]
fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// The number of bytes that `put_varint` appends for `value`.
#[inline]
pub(crate) fn varint_size(value: i64) -> usize {
    (zigzag(value) | 1).ilog2() as usize / 7 + 1
}

/// The number of bytes that `put_bytes` appends for `bytes`.
#[inline]
pub(crate) fn framed_size(bytes: &[u8]) -> usize {
    varint_size(bytes.len() as i64) + bytes.len()
}

#[cfg(test)]
mod tests {
    use super::{put_varint, varint_size};

    #[test]
    fn varint_size_is_the_size_written() {
        for shift in 0..64 {
            for value in [1_i64 << shift, (1_i64 << shift).wrapping_sub(1), (1_i64 << shift).wrapping_neg()] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_size(value), "{value}");
            }
        }
    }
}
