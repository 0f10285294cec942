//! Columns of byte strings that lie in one or several buffers.

/// The position of each row of a column.
pub struct Rows {
    joined: Vec<u8>,                // copies of the rows that span several buffers
    rows: Vec<(u32, usize, usize)>, // buffer, start, length
}

/// The buffer number that stands for `Rows::joined`.
const JOINED: u32 = u32::MAX;

impl Rows {
    /// Locates consecutive rows of `lengths` bytes in `parts`, and drops the last `ending` bytes of each row.
    ///
    /// Returns `None` if a row is shorter than `ending`, or if `parts` don't hold exactly as many bytes as the rows.
    #[must_use]
    pub fn new(parts: &[&[u8]], lengths: &[i64], ending: usize) -> Option<Self> {
        let mut found = Self { joined: Vec::new(), rows: Vec::with_capacity(lengths.len()) };
        let (mut part, mut at) = (0, 0);
        for &length in lengths {
            let length = usize::try_from(length).ok()?;
            let kept = length.checked_sub(ending)?;
            while parts.get(part).is_some_and(|bytes| at == bytes.len()) {
                (part, at) = (part + 1, 0);
            }
            if length == 0 {
                found.rows.push((JOINED, 0, 0));
            } else if length <= parts.get(part)?.len() - at {
                found.rows.push((u32::try_from(part).ok()?, at, kept));
                at += length;
            } else {
                let start = found.joined.len();
                while found.joined.len() - start < length {
                    let rest = &parts.get(part)?[at..];
                    let taken = rest.len().min(length - (found.joined.len() - start));
                    found.joined.extend_from_slice(&rest[..taken]);
                    (part, at) = if taken == rest.len() { (part + 1, 0) } else { (part, at + taken) };
                }
                found.rows.push((JOINED, start, kept));
            }
        }
        let left: usize = parts.iter().skip(part).map(|bytes| bytes.len()).sum();
        (left == at).then_some(found)
    }
}

/// A column of byte strings.
pub struct Column<'a> {
    parts: Vec<&'a [u8]>,
    rows: &'a Rows,
}

impl<'a> Column<'a> {
    /// Creates a column from the buffers that `rows` was created for.
    #[must_use]
    pub fn new(parts: Vec<&'a [u8]>, rows: &'a Rows) -> Self {
        Self { parts, rows }
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.rows.len()
    }

    /// Returns whether the column has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns row `index`. Panics if it is out of range.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> &'a [u8] {
        let (part, start, length) = self.rows.rows[index];
        let bytes = if part == JOINED { &self.rows.joined[..] } else { self.parts[part as usize] };
        &bytes[start..start + length]
    }
}

#[cfg(test)]
mod tests {
    use super::{Column, Rows};

    #[test]
    fn rows_may_span_buffers() {
        let whole = b"one\ntwo\nthree\nfour\n";
        for first in 0..=whole.len() {
            for second in first..=whole.len() {
                let parts = [&whole[..first], &whole[first..second], &whole[second..]];
                let rows = Rows::new(&parts, &[4, 4, 6, 5], 1).expect("the lengths match");
                let column = Column::new(parts.to_vec(), &rows);
                let rows: Vec<_> = (0..column.len()).map(|index| column.get(index)).collect();
                assert_eq!(rows, [&b"one"[..], b"two", b"three", b"four"]);
            }
        }
    }

    #[test]
    fn lengths_must_match_the_buffers() {
        for lengths in [&[3][..], &[5], &[2, 3], &[-1], &[i64::MAX], &[]] {
            assert!(Rows::new(&[&b"four"[..]], lengths, 0).is_none(), "{lengths:?}");
        }
        assert!(Rows::new(&[&b"four"[..]], &[4, 0], 1).is_none());
        assert!(Rows::new(&[&b"four"[..], b""], &[0, 4, 0], 0).is_some());
    }
}
