//! What is done to values that must not leave the process as they are: the twin of btfeed/privacy.py.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The first 32 hex digits of a text's HMAC-SHA-256, under one key.
#[derive(Clone)]
pub struct Hasher(Hmac<Sha256>);

impl std::fmt::Debug for Hasher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Hasher") // and not its key
    }
}

impl Hasher {
    /// Hashes under `key`.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        match Hmac::new_from_slice(key) {
            Ok(hmac) => Self(hmac),
            Err(_) => unreachable!("an HMAC takes keys of every length"),
        }
    }

    /// 32 hex digits.
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

/// `address` with its last octet (IPv4) or its last 80 bits (IPv6) zero. `None` where it is no address.
#[must_use]
pub fn mask_ip(address: &str) -> Option<String> {
    let address = address.split('%').next().unwrap_or_default();
    Some(match address.parse().ok()? {
        IpAddr::V4(parsed) => Ipv4Addr::from_bits(parsed.to_bits() & !0xff).to_string(),
        IpAddr::V6(parsed) => Ipv6Addr::from_bits(parsed.to_bits() >> 80 << 80).to_string(),
    })
}
