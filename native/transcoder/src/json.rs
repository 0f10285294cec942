//! Writes JSON as msgspec does: numbers in the shortest form that parses to the same value, and UTF-8 without escapes.
//!
//! The buffer is initialized beyond the end of the text. Short pieces can thus be copied in blocks of a fixed size, which
//! is faster than a copy of variable length.

/// How many bytes beyond the end of the text a copy of a fixed size may write.
const SLACK: usize = 48;

/// Below it, a double has every integer, and the next ones are at most 1 away.
const EXACT: u64 = 1 << 53;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// An encoded field name: `,"NAME":`.
#[derive(Clone, Debug)]
pub struct Key {
    bytes: Vec<u8>,
    padded: Option<[u8; SLACK]>, // the same bytes, if they fit
}

impl Key {
    /// Encodes `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut writer = Writer::default();
        writer.bytes(b",");
        writer.text(name.as_bytes());
        writer.bytes(b":");
        let bytes = writer.as_bytes().to_vec();
        let mut padded = [0; SLACK];
        let target = padded.get_mut(..bytes.len());
        let fits = target.map(|target| target.copy_from_slice(&bytes)).is_some();
        Self { padded: fits.then_some(padded), bytes }
    }

    /// Returns its approximate size in memory, in bytes.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

/// Writes JSON to a buffer.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
    length: usize,
}

impl Writer {
    /// Reuses `bytes` as the buffer. Their content is overwritten.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, length: 0 }
    }

    /// Returns the size of the text in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether the text is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Removes the text from `start` on, and returns it.
    pub fn split_off(&mut self, start: usize) -> Vec<u8> {
        let taken = self.bytes[start..self.length].to_vec();
        self.length = start;
        taken
    }

    /// Returns the buffer and the size of the text in it.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, usize) {
        (self.bytes, self.length)
    }

    /// Returns the text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Returns the buffer from the end of the text on: at least `bytes + SLACK` bytes.
    #[inline]
    fn spare(&mut self, bytes: usize) -> &mut [u8] {
        if self.bytes.len() - self.length < bytes + SLACK {
            self.grow(bytes);
        }
        &mut self.bytes[self.length..]
    }

    #[cold]
    fn grow(&mut self, bytes: usize) {
        let needed = self.length + bytes + SLACK;
        self.bytes.resize(needed + needed / 2, 0);
    }

    /// Appends bytes.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        let length = bytes.len();
        let spare = self.spare(length);
        spare[..length].copy_from_slice(bytes);
        self.length += length;
    }

    /// Appends bytes. Faster than `bytes` for up to 32 bytes.
    #[inline]
    pub fn short_bytes(&mut self, bytes: &[u8]) {
        let length = bytes.len();
        let target = &mut self.spare(length)[..length];
        if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>())
            && length <= 16
        {
            target[..8].copy_from_slice(first);
            target[length - 8..].copy_from_slice(last); // overlaps the first copy
        } else if let (Some(first), Some(last)) = (bytes.first_chunk::<16>(), bytes.last_chunk::<16>())
            && length <= 32
        {
            target[..16].copy_from_slice(first);
            target[length - 16..].copy_from_slice(last);
        } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>())
            && length < 8
        {
            target[..4].copy_from_slice(first);
            target[length - 4..].copy_from_slice(last);
        } else {
            target.copy_from_slice(bytes);
        }
        self.length += length;
    }

    /// Appends the first `length` bytes of `bytes`. Copies the whole array, which has a fixed size.
    #[inline]
    pub fn prefix<const N: usize>(&mut self, bytes: &[u8; N], length: usize) {
        const { assert!(N <= SLACK) };
        self.spare(0)[..N].copy_from_slice(bytes);
        self.length += length;
    }

    /// Appends a field name with its comma and colon.
    #[inline]
    pub fn key(&mut self, key: &Key) {
        match &key.padded {
            Some(padded) => self.prefix(padded, key.bytes.len()),
            None => self.bytes(&key.bytes),
        }
    }

    /// Appends a byte.
    #[inline]
    pub fn byte(&mut self, byte: u8) {
        self.spare(1)[0] = byte;
        self.length += 1;
    }

    /// Appends an integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        self.short_bytes(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Appends a finite number.
    #[inline]
    pub fn number(&mut self, value: f64) {
        let integer = value as i64;
        if (integer as f64).to_bits() == value.to_bits() && integer.unsigned_abs() < EXACT {
            self.integer(integer); // its shortest form has all of its digits
            self.prefix(b".0", 2);
            return;
        }
        let mut buffer = zmij::Buffer::new();
        let text = buffer.format_finite(value).as_bytes();
        if value.abs() < 1e16 {
            self.short_bytes(text);
        } else {
            text.split(|byte| *byte == b'+').for_each(|part| self.bytes(part)); // msgspec writes 1e16, zmij 1e+16
        }
    }

    /// Appends a string in quotes. Replaces invalid UTF-8 by U+FFFD, and then returns false.
    #[inline]
    pub fn text(&mut self, text: &[u8]) -> bool {
        let length = text.len();
        let spare = self.spare(length + 2);
        spare[0] = b'"';
        if copy_unescaped(text, &mut spare[1..]) {
            spare[length + 1] = b'"';
            self.length += length + 2;
            return true;
        }
        self.escaped_text(text)
    }

    #[cold]
    fn escaped_text(&mut self, text: &[u8]) -> bool {
        self.byte(b'"');
        let mut valid = true;
        for chunk in text.utf8_chunks() {
            self.escape(chunk.valid());
            if !chunk.invalid().is_empty() {
                valid = false;
                self.bytes("\u{fffd}".as_bytes());
            }
        }
        self.byte(b'"');
        valid
    }

    fn escape(&mut self, text: &str) {
        let mut copied = 0;
        let bytes = text.as_bytes();
        for (index, &byte) in bytes.iter().enumerate() {
            let short = match byte {
                b'"' | b'\\' => byte,
                0x08 => b'b',
                b'\t' => b't',
                b'\n' => b'n',
                0x0c => b'f',
                b'\r' => b'r',
                0..0x20 => 0,
                _ => continue,
            };
            self.bytes(&bytes[copied..index]);
            copied = index + 1;
            if short == 0 {
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                self.bytes(b"\\u00");
                self.bytes(&digits);
            } else {
                self.bytes(&[b'\\', short]);
            }
        }
        self.bytes(&bytes[copied..]);
    }
}

/// Copies `text` to the start of `target`, which must be larger. Stops and returns false if a character is not ASCII, or
/// needs an escape.
#[inline]
fn copy_unescaped(text: &[u8], target: &mut [u8]) -> bool {
    let target = &mut target[..text.len()];
    if let Some(last) = text.last_chunk::<8>() {
        let (words, _) = text.as_chunks::<8>();
        let (target_words, _) = target.as_chunks_mut::<8>();
        for (word, target) in words.iter().zip(target_words) {
            if special_bytes(u64::from_le_bytes(*word)) != 0 {
                return false;
            }
            *target = *word;
        }
        target[text.len() - 8..].copy_from_slice(last); // overlaps the words copied above
        return special_bytes(u64::from_le_bytes(*last)) == 0;
    }
    if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        target[..4].copy_from_slice(first);
        target[text.len() - 4..].copy_from_slice(last);
        let word = u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32;
        return special_bytes(word) == 0;
    }
    let mut unescaped = true;
    for (byte, target) in text.iter().zip(target) {
        unescaped &= *byte >= 0x20 && *byte < 0x80 && *byte != b'"' && *byte != b'\\';
        *target = *byte;
    }
    unescaped
}

/// Returns a number other than zero if one of the eight bytes is a control character, a quote, a backslash, or not ASCII.
#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOP_BITS: u64 = 0x8080_8080_8080_8080;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let control = word.wrapping_sub(ONES * 0x20);
    (word | control | quote.wrapping_sub(ONES) | backslash.wrapping_sub(ONES)) & TOP_BITS
}
