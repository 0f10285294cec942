//! When a transaction begins: at once, or when the clients that were just answered have sent their next posts.
//!
//! Clients that are answered together come back at about the same time. If the first one began a transaction, the others
//! would wait for its end, and share the next one: twice as many commits, each of which costs more than a small post.
//!
//! Clients may also take longer than it waits. Then posts have waited in vain, and it is tried less often.

use std::time::{Duration, Instant};

/// More posts than this have a commit that is cheap for each of them.
const FEW: usize = 16;
/// Bytes of bodies from which on writing them costs more than the commit.
const LARGE: usize = 1 << 18;
/// How many times as long as the last transaction took the next one waits.
const PATIENCE: u32 = 2;
/// The most transactions in a row that do not wait because others did so in vain.
const MOST_PASSED: u32 = 64;

/// What the next transaction waits for.
pub(crate) struct Gathering {
    longest: Duration,
    posts: usize,
    until: Option<Instant>,
    passes: u32, // transactions that do not wait after one that did: four times as many if that was in vain, else half
    to_pass: u32,
}

impl Gathering {
    /// No transaction is to wait longer than this.
    pub(crate) fn new(longest: Duration) -> Self {
        Self { longest, posts: 0, until: None, passes: 0, to_pass: 0 }
    }

    /// A transaction has ended `now`. `waiting` posts came while it wrote `posts` with bodies of `size` bytes.
    pub(crate) fn begin(&mut self, posts: usize, size: usize, took: Duration, waiting: usize, now: Instant) {
        let posts = posts + waiting;
        if !(2..=FEW).contains(&posts) || size >= LARGE {
            return;
        }
        if self.to_pass > 0 {
            self.to_pass -= 1;
            return;
        }
        self.posts = posts;
        self.until = Some(now + self.longest.min(took * PATIENCE));
    }

    /// Whether it does not wait for more than the posts that are `waiting`.
    pub(crate) fn complete(&self, waiting: usize) -> bool {
        waiting >= self.posts
    }

    /// Returns how long it still waits, if it does not end with the posts that are `waiting`.
    pub(crate) fn left(&self, waiting: usize, now: Instant) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(now);
        (!self.complete(waiting) && !left.is_zero()).then_some(left)
    }

    /// A transaction begins with the posts that are `waiting`; or none does, since there are none.
    pub(crate) fn end(&mut self, waiting: usize) {
        if self.until.take().is_some() && waiting > 0 {
            let complete = self.complete(waiting);
            self.passes = if complete { self.passes / 2 } else { (self.passes * 4).clamp(1, MOST_PASSED) };
            self.to_pass = self.passes;
        }
        self.posts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_micros(200);
    const LONGEST: Duration = Duration::from_millis(5);

    fn after(posts: usize, waiting: usize) -> (Gathering, Instant) {
        let (mut gathering, now) = (Gathering::new(LONGEST), Instant::now());
        gathering.begin(posts, 1_000, TOOK, waiting, now);
        (gathering, now)
    }

    /// Whether it waits after a transaction of 4 posts. The next one begins with `came` of them.
    fn waits(gathering: &mut Gathering, came: usize) -> bool {
        let now = Instant::now();
        gathering.begin(4, 1_000, TOOK, 0, now);
        let waits = gathering.left(1, now).is_some();
        gathering.end(came);
        waits
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
        let (mut gathering, now) = after(4, 0);
        assert_eq!(gathering.left(0, now + TOOK * 2), None);
        gathering.begin(4, 0, Duration::from_secs(10), 0, now);
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
        for (size, left) in [(LARGE, None), (LARGE - 1, Some(TOOK * 2))] {
            let (mut gathering, now) = (Gathering::new(LONGEST), Instant::now());
            gathering.begin(4, size, TOOK, 0, now);
            assert_eq!(gathering.left(0, now), left);
        }
    }

    #[test]
    fn does_not_wait_before_the_first_transaction() {
        assert_eq!(Gathering::new(LONGEST).left(0, Instant::now()), None);
        assert!(Gathering::new(LONGEST).complete(0));
    }

    #[test]
    fn waits_ever_less_often_for_clients_that_take_longer() {
        let mut gathering = Gathering::new(LONGEST);
        let waited: Vec<_> = (0..200).filter(|_| waits(&mut gathering, 3)).collect();
        assert_eq!(waited, [0, 2, 7, 24, 89, 154]);
    }

    #[test]
    fn waits_each_time_again_once_they_come() {
        let mut gathering = Gathering::new(LONGEST);
        while gathering.passes < MOST_PASSED {
            waits(&mut gathering, 3);
        }
        let waited = (0..200).filter(|_| waits(&mut gathering, 4)).count();
        assert_eq!(waited, 200 - (64 + 32 + 16 + 8 + 4 + 2 + 1));
        assert!(waits(&mut gathering, 4));
    }

    #[test]
    fn nobody_has_waited_if_nobody_came() {
        let mut gathering = Gathering::new(LONGEST);
        assert_eq!((0..9).filter(|_| waits(&mut gathering, 0)).count(), 9);
    }
}
