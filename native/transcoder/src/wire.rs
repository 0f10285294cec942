//! Reads the protobuf wire format as upb does. Methods return `None` where upb rejects the input.

/// How many groups may be open at the level of the post. Each level of nested messages has one less.
pub const MAX_DEPTH: usize = 100;

/// The wire type of integers and flags. Wire types are the lower three bits of a tag.
pub const VARINT: u32 = 0;
/// The wire type of eight bytes.
pub const FIXED64: u32 = 1;
/// The wire type of content with its length in front.
pub const DELIMITED: u32 = 2;
const START_GROUP: u32 = 3;
const END_GROUP: u32 = 4;
const FIXED32: u32 = 5;

/// The part of a message that is still to be read.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns whether everything has been read.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the number of bytes that are still to be read.
    #[inline]
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Reads the tag of a field: 32 bits in up to five bytes, with a field number other than zero.
    #[inline]
    pub fn tag(&mut self) -> Option<u32> {
        self.any_tag().filter(|tag| tag >> 3 != 0)
    }

    /// Reads a tag with any field number. Inside groups, upb does not check it.
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

    /// Reads a varint of up to ten bytes. Bits beyond the 64th are dropped.
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

    /// Reads a length of up to five bytes, and returns that many bytes.
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

    /// Reads eight bytes.
    #[inline]
    pub fn fixed64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    /// Skips the content of a field with this tag. If it is a group, up to `depth` groups may be open in it.
    #[inline(always)] // it is most of admission, which takes a third less time
    pub fn skip(&mut self, tag: u32, depth: usize) -> Option<()> {
        match tag & 7 {
            VARINT => self.varint().map(drop),
            FIXED64 => self.advance(8),
            DELIMITED => self.delimited().map(drop),
            _ => self.skip_rare(tag, depth),
        }
    }

    #[cold]
    fn skip_rare(&mut self, tag: u32, depth: usize) -> Option<()> {
        match tag & 7 {
            FIXED32 => self.advance(4),
            START_GROUP => self.skip_group(tag, depth, || Some(())),
            _ => None,
        }
    }

    /// Skips the content of a group. Calls `each` for every tag in it, and stops if that returns `None`.
    pub fn skip_group(&mut self, tag: u32, depth: usize, mut each: impl FnMut() -> Option<()>) -> Option<()> {
        let mut open = vec![tag];
        while let Some(&innermost) = open.last() {
            if open.len() > depth {
                return None;
            }
            let tag = self.any_tag()?;
            match tag & 7 {
                START_GROUP => open.push(tag),
                END_GROUP if tag == innermost + 1 => drop(open.pop()),
                _ => self.skip(tag, 0)?,
            }
            each()?;
        }
        Some(())
    }

    #[inline]
    fn advance(&mut self, length: usize) -> Option<()> {
        self.rest = self.rest.get(length..)?;
        Some(())
    }

    #[inline]
    fn long_varint(&mut self, max_size: usize) -> Option<u64> {
        let mut value = 0;
        for (index, &byte) in self.rest.iter().take(max_size).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Some(value);
            }
        }
        None
    }
}
