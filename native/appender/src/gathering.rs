//! When a transaction begins: at once, or when the clients that were just answered have sent their next posts.
//!
//! Clients that are answered together come back at about the same time. If the first one began a transaction, the others
//! would wait for its end, and share the next one: twice as many commits, each of which costs more than a small post.

use std::time::{Duration, Instant};

/// More posts than this have a commit that is cheap for each of them.
const FEW: usize = 16;
/// Bytes of bodies from which on writing them costs more than the commit.
const LARGE: usize = 1 << 18;
/// How many times as long as the last transaction took the next one waits.
const PATIENCE: u32 = 2;
/// The longest wait: a disk that has just been slow must not make others wait, too.
const LONGEST: Duration = Duration::from_millis(5);

/// What the next transaction waits for.
#[derive(Default)]
pub(crate) struct Gathering {
    posts: usize,
    until: Option<Instant>,
}

impl Gathering {
    /// Looks at the transaction that ends `now`. `waiting` posts came while it wrote `posts` with bodies of `size` bytes.
    pub(crate) fn after(posts: usize, size: usize, took: Duration, waiting: usize, now: Instant) -> Self {
        let posts = posts + waiting;
        let pays = (2..=FEW).contains(&posts) && size < LARGE;
        if pays { Self { posts, until: Some(now + LONGEST.min(took * PATIENCE)) } } else { Self::default() }
    }

    /// Whether it does not wait for more than the posts that are `waiting`.
    pub(crate) fn complete(&self, waiting: usize) -> bool {
        waiting >= self.posts
    }

    /// Returns how long it still waits, if it does not begin with the posts that are `waiting`.
    pub(crate) fn left(&self, waiting: usize, now: Instant) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(now);
        (!self.complete(waiting) && !left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_micros(200);

    fn after(posts: usize, waiting: usize) -> (Gathering, Instant) {
        let now = Instant::now();
        (Gathering::after(posts, 1_000, TOOK, waiting, now), now)
    }

    #[test]
    fn waits_for_those_that_were_answered_and_those_that_came_meanwhile() {
        let (gathering, now) = after(3, 1);
        assert_eq!(gathering.left(1, now), Some(TOOK * 2));
        assert_eq!(gathering.left(3, now + TOOK), Some(TOOK));
        assert_eq!(gathering.left(4, now), None);
        assert!(gathering.complete(4) && !gathering.complete(3));
    }

    #[test]
    fn waits_no_longer_than_for_two_transactions() {
        let (gathering, now) = after(4, 0);
        assert_eq!(gathering.left(0, now + TOOK * 2), None);
        let gathering = Gathering::after(4, 0, Duration::from_secs(10), 0, now);
        assert_eq!(gathering.left(0, now), Some(LONGEST));
    }

    #[test]
    fn does_not_wait_for_one_client_or_for_many() {
        for (posts, waiting) in [(1, 0), (FEW, 1), (1, FEW), (0, 0)] {
            let (gathering, now) = after(posts, waiting);
            assert_eq!(gathering.left(0, now), None);
            assert!(gathering.complete(0));
        }
    }

    #[test]
    fn does_not_wait_after_large_posts() {
        let now = Instant::now();
        assert_eq!(Gathering::after(4, LARGE, TOOK, 0, now).left(0, now), None);
        assert_eq!(Gathering::after(4, LARGE - 1, TOOK, 0, now).left(0, now), Some(TOOK * 2));
    }

    #[test]
    fn does_not_wait_before_the_first_transaction() {
        assert_eq!(Gathering::default().left(0, Instant::now()), None);
        assert!(Gathering::default().complete(0));
    }
}
