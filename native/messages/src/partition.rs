//! Decides which partition each record goes to.
//!
//! The rule is that of the default partitioner in Kafka's Java client: murmur2 of the key, modulo the number of partitions.
//! Records with the same key therefore share a partition, whichever client sends them.

use crate::columns::Column;
use crate::murmur2;

/// Returns the partition of a record with this key, in a topic that has `partitions` partitions.
///
/// # Panics
///
/// If `partitions` is zero.
#[inline]
#[must_use]
pub fn of_key(key: &[u8], partitions: usize) -> usize {
    murmur2::hash(key) as usize % partitions
}

/// Groups records by topic and partition: `[topic][partition]` holds the indexes of its records, in ascending order.
///
/// - `keys`: the key of each record.
/// - `runs`: consecutive records that go to the same topic, as (topic, number of records).
/// - `partitions`: the number of partitions of each topic.
/// - `excluded`: indexes of records to leave out, in ascending order.
///
/// # Panics
///
/// If `runs` names a topic without partitions, or covers more records than there are keys.
#[must_use]
pub fn assign(keys: &Column<'_>, runs: &[(usize, usize)], partitions: &[usize], excluded: &[usize]) -> Vec<Vec<Vec<u32>>> {
    let mut assigned: Vec<Vec<Vec<u32>>> = partitions.iter().map(|&count| vec![Vec::new(); count]).collect();
    let (mut index, mut excluded) = (0, excluded.iter().peekable());
    for &(topic, count) in runs {
        for _ in 0..count {
            if excluded.next_if(|&&next| next == index).is_none() {
                let partition = of_key(keys.get(index), partitions[topic]);
                assigned[topic][partition].push(index as u32);
            }
            index += 1;
        }
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::{assign, of_key};
    use crate::columns::{Column, Rows};

    /// The partitions follow from the hashes in the tests of Kafka's Java client: 1173551340, 1357151166 and 1161502112.
    #[test]
    fn partitions_are_those_of_the_java_client() {
        for (key, partition) in [("21", 0), ("foobar", 6), ("a-little-bit-long-string", 2)] {
            assert_eq!(of_key(key.as_bytes(), 10), partition, "{key}");
        }
    }

    #[test]
    fn records_are_grouped_by_topic_and_partition_in_order() {
        let parts = [&b"abcabc"[..]];
        let rows = Rows::new(&parts, &[1; 6], 0).expect("the lengths match");
        let keys = Column::new(parts.to_vec(), &rows);
        let assigned = assign(&keys, &[(1, 2), (0, 4)], &[1, 3], &[0, 4]);
        assert_eq!(assigned[0], [[2, 3, 5]]);
        assert_eq!(assigned[1].concat(), [1]);
        assert_eq!(assigned[1][of_key(b"b", 3)], [1]);
    }
}
