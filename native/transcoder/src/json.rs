//! A buffer of JSON, written as msgspec writes it: the shortest numbers that are read back the same, UTF-8 as it is.
//!
//! Bytes are written into room that is there already, in steps of a fixed size where that is faster, and moved to the
//! whole when a record is done.

/// Bytes from which on the room is moved to the whole, at the end of a record.
const FULL: usize = 1 << 15;
/// Bytes of the room, at least.
const ROOM: usize = FULL + (1 << 14);
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
        let mut writer = Writer::new(0);
        writer.bytes(b",");
        writer.text(name.as_bytes());
        writer.bytes(b":");
        let bytes = writer.finish();
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
pub struct Writer {
    whole: Vec<u8>,
    room: Vec<u8>,
    at: usize,
}

impl Writer {
    /// Expects to hold about `expected` bytes.
    #[must_use]
    pub fn new(expected: usize) -> Self {
        Self { whole: Vec::with_capacity(expected), room: Vec::new(), at: 0 }
    }

    /// How many bytes there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.whole.len() + self.at
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends a record: what was written before is not taken back.
    #[inline]
    pub fn settle(&mut self) {
        if self.at >= FULL {
            self.flush();
        }
    }

    /// Takes back what was written since `start`, which was the end after the last `settle` or later.
    pub fn take_back(&mut self, start: usize) -> Vec<u8> {
        let start = start - self.whole.len();
        let taken = self.room[start..self.at].to_vec();
        self.at = start;
        taken
    }

    /// All of it.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.whole
    }

    fn flush(&mut self) {
        self.whole.extend_from_slice(&self.room[..self.at]);
        self.at = 0;
    }

    /// Room for so many bytes, and some.
    #[inline]
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.room.len() - self.at < bytes + SLACK {
            self.grow(bytes);
        }
        &mut self.room[self.at..]
    }

    #[cold]
    fn grow(&mut self, bytes: usize) {
        let needed = self.at + bytes + SLACK;
        self.room.resize(needed.next_power_of_two().max(ROOM), 0);
    }

    /// These bytes as they are.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        let length = bytes.len();
        let room = self.room(length);
        room[..length].copy_from_slice(bytes);
        self.at += length;
    }

    /// The first `length` of these bytes, in one step of a fixed size.
    #[inline]
    pub fn some<const N: usize>(&mut self, bytes: &[u8; N], length: usize) {
        const { assert!(N <= SLACK) };
        self.room(0)[..N].copy_from_slice(bytes);
        self.at += length;
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
        self.at += 1;
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        self.bytes(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A number that is finite.
    #[inline]
    pub fn number(&mut self, value: f64) {
        let mut buffer = zmij::Buffer::new();
        let text = buffer.format_finite(value).as_bytes();
        if value.abs() < 1e16 {
            self.bytes(text);
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
            self.at += length + 2;
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
