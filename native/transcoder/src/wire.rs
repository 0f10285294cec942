//! protobuf's wire format, as upb reads it. Everything returns `None` where upb finds the wire corrupt.

/// Groups that may be open at the level of the whole message; each level of messages below takes one.
pub const MAX_DEPTH: usize = 100;

/// Wire types, the lower three bits of a tag.
pub const VARINT: u32 = 0;
/// Eight bytes.
pub const FIXED64: u32 = 1;
/// A length, and so many bytes.
pub const DELIMITED: u32 = 2;
const START_GROUP: u32 = 3;
const END_GROUP: u32 = 4;
const FIXED32: u32 = 5;

/// Bytes, and how far they have been read.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins at the first of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// All is read.
    #[inline]
    #[must_use]
    pub fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// How many bytes are to be read yet.
    #[inline]
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next byte, which stays.
    #[inline]
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// A tag with a field number: 32 bits, in five bytes at most.
    #[inline]
    pub fn tag(&mut self) -> Option<u32> {
        self.any_tag().filter(|tag| tag >> 3 != 0)
    }

    /// A tag; inside a group upb does not look at its number.
    #[inline]
    fn any_tag(&mut self) -> Option<u32> {
        match *self.rest {
            [one, ref rest @ ..] if one < 0x80 => {
                self.rest = rest;
                Some(u32::from(one))
            }
            [one, two, ref rest @ ..] if two < 0x80 => {
                self.rest = rest;
                Some(u32::from(one & 0x7f) | u32::from(two) << 7)
            }
            _ => u32::try_from(self.long_varint(5)?).ok(),
        }
    }

    /// A varint of 64 bits, in ten bytes at most; what is beyond 64 bits is lost.
    #[inline]
    pub fn varint(&mut self) -> Option<u64> {
        match *self.rest {
            [one, ref rest @ ..] if one < 0x80 => {
                self.rest = rest;
                Some(u64::from(one))
            }
            _ => self.long_varint(10),
        }
    }

    /// What a length says, in five bytes at most, and is there.
    #[inline]
    pub fn delimited(&mut self) -> Option<&'a [u8]> {
        let length = match *self.rest {
            [one, ref rest @ ..] if one < 0x80 => {
                self.rest = rest;
                usize::from(one)
            }
            _ => usize::try_from(self.long_varint(5)?).ok()?,
        };
        let (content, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(content)
    }

    /// Eight bytes.
    #[inline]
    pub fn fixed64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    /// Passes the field whose `tag` was read. `depth`: how many groups may be open in it.
    #[inline]
    pub fn skip(&mut self, tag: u32, depth: usize) -> Option<()> {
        match tag & 7 {
            VARINT => self.varint().map(drop),
            FIXED64 => self.pass(8),
            DELIMITED => self.delimited().map(drop),
            _ => self.skip_rare(tag, depth),
        }
    }

    #[cold]
    fn skip_rare(&mut self, tag: u32, depth: usize) -> Option<()> {
        match tag & 7 {
            FIXED32 => self.pass(4),
            START_GROUP => self.skip_group(tag, depth, |_, _| Some(())),
            _ => None,
        }
    }

    /// Passes a group with all that is in it. `each` is told of the tags and content lengths in it.
    pub fn skip_group(&mut self, tag: u32, depth: usize, mut each: impl FnMut(u32, usize) -> Option<()>) -> Option<()> {
        let mut open = vec![tag];
        while let Some(&innermost) = open.last() {
            if open.len() > depth {
                return None;
            }
            let tag = self.any_tag()?;
            let before = self.left();
            match tag & 7 {
                START_GROUP => open.push(tag),
                END_GROUP if tag == innermost + 1 => drop(open.pop()),
                _ => self.skip(tag, 0)?,
            }
            each(tag, before - self.left())?;
        }
        Some(())
    }

    #[inline]
    fn pass(&mut self, length: usize) -> Option<()> {
        self.rest = self.rest.get(length..)?;
        Some(())
    }

    #[inline]
    fn long_varint(&mut self, most: usize) -> Option<u64> {
        let mut value = 0;
        for (place, &byte) in self.rest.iter().take(most).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                self.rest = &self.rest[place + 1..];
                return Some(value);
            }
        }
        None
    }
}
