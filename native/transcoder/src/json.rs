//! A buffer of JSON, written as msgspec writes it: the shortest numbers that are read back the same, UTF-8 as it is.
//!
//! Its bytes are there before they are written, so that what is short is written in steps of a fixed size, which is faster.

/// Bytes that the steps of a fixed size may write beyond what they are asked to.
const SLACK: usize = 48;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// `,"NAME":` for a name, escaped.
#[derive(Clone, Debug)]
pub struct Key {
    bytes: Vec<u8>,
    padded: Option<[u8; SLACK]>, // where it is short enough
}

impl Key {
    /// The key of a field called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut writer = Writer::default();
        writer.bytes(b",");
        writer.text(name.as_bytes());
        writer.bytes(b":");
        let bytes = writer.written().to_vec();
        let mut padded = [0; SLACK];
        let room = padded.get_mut(..bytes.len());
        let short = room.map(|room| room.copy_from_slice(&bytes)).is_some();
        Self { padded: short.then_some(padded), bytes }
    }

    /// Bytes that it takes up in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

/// JSON that grows at its end.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
    length: usize,
}

impl Writer {
    /// Writes into `bytes`, whatever they say.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, length: 0 }
    }

    /// How many bytes were written.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Takes back what was written since `start`.
    pub fn take_back(&mut self, start: usize) -> Vec<u8> {
        let taken = self.bytes[start..self.length].to_vec();
        self.length = start;
        taken
    }

    /// Bytes, and how many of them were written.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, usize) {
        (self.bytes, self.length)
    }

    /// What was written.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Room for so many bytes, and some.
    #[inline]
    fn room(&mut self, bytes: usize) -> &mut [u8] {
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

    /// These bytes as they are.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        let length = bytes.len();
        let room = self.room(length);
        room[..length].copy_from_slice(bytes);
        self.length += length;
    }

    /// These bytes, which are few.
    #[inline]
    pub fn few(&mut self, bytes: &[u8]) {
        let length = bytes.len();
        let room = &mut self.room(length)[..length];
        if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>())
            && length <= 16
        {
            room[..8].copy_from_slice(first);
            room[length - 8..].copy_from_slice(last); // overlaps what was copied before
        } else if let (Some(first), Some(last)) = (bytes.first_chunk::<16>(), bytes.last_chunk::<16>())
            && length <= 32
        {
            room[..16].copy_from_slice(first);
            room[length - 16..].copy_from_slice(last);
        } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>())
            && length < 8
        {
            room[..4].copy_from_slice(first);
            room[length - 4..].copy_from_slice(last);
        } else {
            room.copy_from_slice(bytes);
        }
        self.length += length;
    }

    /// The first `length` of these bytes, in one step of a fixed size.
    #[inline]
    pub fn some<const N: usize>(&mut self, bytes: &[u8; N], length: usize) {
        const { assert!(N <= SLACK) };
        self.room(0)[..N].copy_from_slice(bytes);
        self.length += length;
    }

    /// A name and its colon.
    #[inline]
    pub fn key(&mut self, key: &Key) {
        match &key.padded {
            Some(padded) => self.some(padded, key.bytes.len()),
            None => self.bytes(&key.bytes),
        }
    }

    /// One byte.
    #[inline]
    pub fn byte(&mut self, byte: u8) {
        self.room(1)[0] = byte;
        self.length += 1;
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        self.few(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A number that is finite.
    #[inline]
    pub fn number(&mut self, value: f64) {
        let mut buffer = zmij::Buffer::new();
        let text = buffer.format_finite(value).as_bytes();
        if value.abs() < 1e16 {
            self.few(text);
        } else {
            text.split(|byte| *byte == b'+').for_each(|part| self.bytes(part)); // 1e16, where zmij says 1e+16
        }
    }

    /// A text in quotes. False where it is not UTF-8: each bad byte then becomes U+FFFD.
    #[inline]
    pub fn text(&mut self, text: &[u8]) -> bool {
        let length = text.len();
        let room = self.room(length + 2);
        room[0] = b'"';
        if copy_plain(text, &mut room[1..]) {
            room[length + 1] = b'"';
            self.length += length + 2;
            return true;
        }
        self.escaped(text)
    }

    #[cold]
    fn escaped(&mut self, text: &[u8]) -> bool {
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
        let mut plain = 0;
        let bytes = text.as_bytes();
        for (place, &byte) in bytes.iter().enumerate() {
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
            self.bytes(&bytes[plain..place]);
            plain = place + 1;
            if short == 0 {
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                self.bytes(b"\\u00");
                self.bytes(&digits);
            } else {
                self.bytes(&[b'\\', short]);
            }
        }
        self.bytes(&bytes[plain..]);
    }
}

/// Copies `text` to the start of `room`, which is larger, as long as it needs no escape and is ASCII. False where it ended
/// early.
#[inline]
fn copy_plain(text: &[u8], room: &mut [u8]) -> bool {
    let (words, rest) = text.as_chunks::<8>();
    let (room_words, room_rest) = room[..text.len()].as_chunks_mut::<8>();
    for (word, room) in words.iter().zip(room_words) {
        if special(u64::from_le_bytes(*word)) != 0 {
            return false;
        }
        *room = *word;
    }
    if let Some(last) = text.last_chunk::<8>() {
        room[text.len() - 8..text.len()].copy_from_slice(last); // overlaps what was copied before
        return special(u64::from_le_bytes(*last)) == 0;
    }
    let mut all_plain = true;
    for (byte, room) in rest.iter().zip(room_rest) {
        all_plain &= *byte >= 0x20 && *byte < 0x80 && *byte != b'"' && *byte != b'\\';
        *room = *byte;
    }
    all_plain
}

/// Not zero where one of the eight bytes is a control, a quote, a backslash or no ASCII.
#[inline]
fn special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let below = word.wrapping_sub(ONES * 0x20);
    (word | below | quote.wrapping_sub(ONES) | backslash.wrapping_sub(ONES)) & TOPS
}
