//! Columns of a batch of records: pieces of memory, and where each row stands in them.

/// Where each row stands in pieces of memory that stand one behind the other.
pub struct Rows {
    seams: Vec<u8>,
    rows: Vec<(u32, usize, usize)>, // part, start, length
}

/// The number of the part that is `Rows::seams`.
const SEAMS: u32 = u32::MAX;

impl Rows {
    /// Rows of `lengths` bytes, without the last `ending` bytes of each. `None` where `parts` hold other than that many bytes.
    #[must_use]
    pub fn new(parts: &[&[u8]], lengths: &[i64], ending: usize) -> Option<Self> {
        let mut found = Self { seams: Vec::new(), rows: Vec::with_capacity(lengths.len()) };
        let (mut part, mut at) = (0, 0);
        for &length in lengths {
            let length = usize::try_from(length).ok()?;
            let kept = length.checked_sub(ending)?;
            while parts.get(part).is_some_and(|bytes| at == bytes.len()) {
                (part, at) = (part + 1, 0);
            }
            if length == 0 {
                found.rows.push((SEAMS, 0, 0));
            } else if length <= parts.get(part)?.len() - at {
                found.rows.push((u32::try_from(part).ok()?, at, kept));
                at += length;
            } else {
                let start = found.seams.len(); // it stands in several parts
                while found.seams.len() - start < length {
                    let rest = &parts.get(part)?[at..];
                    let taken = rest.len().min(length - (found.seams.len() - start));
                    found.seams.extend_from_slice(&rest[..taken]);
                    (part, at) = if taken == rest.len() { (part + 1, 0) } else { (part, at + taken) };
                }
                found.rows.push((SEAMS, start, kept));
            }
        }
        let left: usize = parts.iter().skip(part).map(|bytes| bytes.len()).sum();
        (left == at).then_some(found)
    }
}

/// Byte strings that stand in one piece of memory or in several.
pub struct Column<'a> {
    parts: Vec<&'a [u8]>,
    rows: &'a Rows,
}

impl<'a> Column<'a> {
    /// `rows` were made for these `parts`.
    #[must_use]
    pub fn new(parts: Vec<&'a [u8]>, rows: &'a Rows) -> Self {
        Self { parts, rows }
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.rows.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Row `index`.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> &'a [u8] {
        let (part, start, length) = self.rows.rows[index];
        let bytes = if part == SEAMS { &self.rows.seams[..] } else { self.parts[part as usize] };
        &bytes[start..start + length]
    }
}

#[cfg(test)]
mod tests {
    use super::{Column, Rows};

    /// Rows are found wherever parts end.
    #[test]
    fn parts_end_anywhere() {
        let whole = b"one\ntwo\nthree\nfour\n";
        for first in 0..=whole.len() {
            for second in first..=whole.len() {
                let parts = [&whole[..first], &whole[first..second], &whole[second..]];
                let rows = Rows::new(&parts, &[4, 4, 6, 5], 1).expect("they fit");
                let column = Column::new(parts.to_vec(), &rows);
                let rows: Vec<_> = (0..column.len()).map(|index| column.get(index)).collect();
                assert_eq!(rows, [&b"one"[..], b"two", b"three", b"four"]);
            }
        }
    }

    /// Lengths that are not those of the parts are refused.
    #[test]
    fn lengths_must_fit() {
        for lengths in [&[3][..], &[5], &[2, 3], &[-1], &[i64::MAX], &[]] {
            assert!(Rows::new(&[&b"four"[..]], lengths, 0).is_none(), "{lengths:?}");
        }
        assert!(Rows::new(&[&b"four"[..]], &[4, 0], 1).is_none());
        assert!(Rows::new(&[&b"four"[..], b""], &[0, 4, 0], 0).is_some());
    }
}
