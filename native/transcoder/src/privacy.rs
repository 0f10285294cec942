//! Hashes and masks values. The counterpart of btfeed/records/privacy.py.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Hashes texts with HMAC-SHA-256 under one key.
#[derive(Clone)]
pub struct Hasher(Hmac<Sha256>);

impl std::fmt::Debug for Hasher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Hasher") // keeps the key out of logs
    }
}

impl Hasher {
    /// Creates a hasher with this key, which may have any length.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        match Hmac::new_from_slice(key) {
            Ok(hmac) => Self(hmac),
            Err(_) => unreachable!("HMAC accepts keys of any length"),
        }
    }

    /// Returns the first 32 hexadecimal digits of the hash.
    #[must_use]
    pub fn hash(&self, text: &[u8]) -> [u8; 32] {
        let mut hmac = self.0.clone();
        hmac.update(text);
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(hmac.finalize().into_bytes()) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        digits
    }
}

/// Returns `address` with its last octet (IPv4) or its last 80 bits (IPv6) set to zero. `None` if it is not an IP address.
#[must_use]
pub fn mask_ip(address: &str) -> Option<String> {
    let address = address.split('%').next().unwrap_or_default();
    Some(match address.parse().ok()? {
        IpAddr::V4(parsed) => Ipv4Addr::from_bits(parsed.to_bits() & !0xff).to_string(),
        IpAddr::V6(parsed) => Ipv6Addr::from_bits(parsed.to_bits() >> 80 << 80).to_string(),
    })
}
