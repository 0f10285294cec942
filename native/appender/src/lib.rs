//! Appends posts to a journal in SQLite, on a thread of its own that never waits for an interpreter.
//!
//! - `Appender`: takes groups of posts, and gives them back with what became of them.
//! - `connection`: the transaction, on a connection that somebody else has opened.
//!
//! The connection is lent. Its owner takes it back whenever it has work of its own, and decides what an error means: the
//! appender stops at the first one, and gives back what it has not written.

mod connection;
mod gathering;

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

pub use connection::{Connection, extension_init};

use connection::INTERNAL;
use gathering::Gathering;
pub use rusqlite::ffi;

/// Bytes of bodies after which no more groups join a transaction.
const TRANSACTION_BYTES: usize = 32 << 20;

/// A post to append. `size` is what it takes of the room, `received` in milliseconds since the epoch.
pub struct Post<B> {
    /// As it was received.
    pub body: B,
    /// When it was received.
    pub received: i64,
    /// The address of its sender.
    pub peer: String,
    /// Bytes that it takes of the room.
    pub size: i64,
}

/// Why a group is not appended.
#[derive(Clone)]
pub enum NotAppended {
    /// It was not tried: no connection is lent, or there is no room.
    Left,
    /// Its transaction failed.
    Failed(Failure),
}

/// What SQLite says: its extended result code, and its message.
pub type Failure = (i32, String);

/// A group that is durable.
pub struct Appended {
    /// The number of its first post. The others follow.
    pub first: i64,
    /// The BLAKE2b-256 digest of each body.
    pub digests: Vec<[u8; 32]>,
    /// Seconds that the transaction took, in its first group.
    pub seconds: Option<f64>,
}

/// A group, and what became of it.
pub struct Done<B> {
    /// As it was given.
    pub posts: Vec<Post<B>>,
    /// What became of it.
    pub outcome: Result<Appended, NotAppended>,
}

/// What is lent: the connection, and the bounds within which posts may be appended.
pub struct Loan {
    /// Where to append.
    pub connection: Connection,
    /// The number of the next post.
    pub next: i64,
    /// Bytes that may be taken.
    pub room: i64,
    /// Bytes that a transaction takes besides its posts.
    pub slack: i64,
}

enum Lent {
    /// Groups are given back at once. A loan that ended by itself waits for its owner.
    No(Option<Loan>),
    /// The owner has it back for a while: groups wait.
    Reclaimed,
    Yes(Loan),
    /// The thread has it in a transaction.
    InUse,
}

struct State<B> {
    lent: Lent,
    wanted: bool, // back, by the owner
    asleep: bool,
    ending: bool,
    given: VecDeque<Vec<Post<B>>>,
    gathering: Gathering, // before the next transaction
    done: Vec<Done<B>>,
}

impl<B> State<B> {
    fn waiting(&self) -> usize {
        self.given.iter().map(Vec::len).sum()
    }
}

struct Shared<B> {
    state: Mutex<State<B>>,
    work: Condvar,
    returned: Condvar,
    signal: Box<dyn Fn() + Send + Sync>,
}

/// The thread. Groups are done in the order in which they were given.
pub struct Appender<B> {
    shared: Arc<Shared<B>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<B: AsRef<[u8]> + Send + 'static> Appender<B> {
    /// Starts the thread. It calls `signal` when there is something to `take`, once until that is called. A transaction waits
    /// for the next posts of clients that were just answered, but no longer than `longest`.
    ///
    /// # Errors
    ///
    /// If the system can't start a thread.
    pub fn start(longest: Duration, signal: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let state = State {
            lent: Lent::No(None),
            wanted: false,
            asleep: false,
            ending: false,
            given: VecDeque::new(),
            gathering: Gathering::new(longest),
            done: Vec::new(),
        };
        let (work, returned) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { state: Mutex::new(state), work, returned, signal: Box::new(signal) });
        let thread = Builder::new().name("append".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run()
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Appends a group.
    pub fn append(&self, posts: Vec<Post<B>>) {
        let mut state = self.shared.lock();
        if matches!(state.lent, Lent::No(_)) || state.ending {
            self.shared.finish(&mut state, [Done { posts, outcome: Err(NotAppended::Left) }]);
        } else {
            state.given.push_back(posts);
            if state.gathering.complete(state.waiting()) {
                self.shared.wake(&state);
            }
        }
    }

    /// The groups that are done, in the order in which they were given.
    #[must_use]
    pub fn take(&self) -> Vec<Done<B>> {
        std::mem::take(&mut self.shared.lock().done)
    }

    /// Lends a connection.
    pub fn lend(&self, loan: Loan) {
        let mut state = self.shared.lock();
        state.lent = Lent::Yes(loan);
        self.shared.wake(&state);
    }

    /// Takes the connection back, and lets groups wait. Blocks while a transaction is under way. None if nothing was lent.
    #[must_use]
    pub fn reclaim(&self) -> Option<Loan> {
        let mut state = self.shared.lock();
        state.wanted = true;
        while matches!(state.lent, Lent::InUse) {
            state = self.shared.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.wanted = false;
        match std::mem::replace(&mut state.lent, Lent::Reclaimed) {
            Lent::Yes(loan) => Some(loan),
            Lent::No(loan) => loan,
            Lent::Reclaimed | Lent::InUse => None,
        }
    }

    /// Gives groups back from now on, also those that wait. To be called after `reclaim`, instead of `lend`.
    pub fn refuse(&self) {
        self.shared.stop(&mut self.shared.lock(), None);
    }

    /// Ends the thread. Groups that wait are given back.
    pub fn end(&self) {
        {
            let mut state = self.shared.lock();
            state.ending = true;
            self.shared.wake(&state);
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join(); // it has caught all panics
        }
    }
}

impl<B> Drop for Appender<B> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ending = true;
        self.shared.work.notify_one();
    }
}

impl<B: AsRef<[u8]>> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To notify a thread that does not sleep would be a system call for nothing.
    fn wake(&self, state: &State<B>) {
        if state.asleep {
            self.work.notify_one();
        }
    }

    fn finish(&self, state: &mut State<B>, done: impl IntoIterator<Item = Done<B>>) {
        let quiet = state.done.is_empty();
        state.done.extend(done);
        if quiet && !state.done.is_empty() {
            (self.signal)();
        }
    }

    fn stop(&self, state: &mut State<B>, loan: Option<Loan>) {
        state.lent = Lent::No(loan);
        let given = std::mem::take(&mut state.given);
        self.finish(state, given.into_iter().map(|posts| Done { posts, outcome: Err(NotAppended::Left) }));
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.ending {
            if !matches!(state.lent, Lent::Yes(_)) || state.wanted {
                state = self.sleep(state, None);
            } else if let Some(left) = state.gathering.left(state.waiting(), Instant::now()) {
                state = self.sleep(state, Some(left));
            } else if state.given.is_empty() {
                state.gathering.end(0);
                state = self.sleep(state, None);
            } else if let Lent::Yes(loan) = std::mem::replace(&mut state.lent, Lent::InUse) {
                state = self.transact(state, loan);
            }
        }
        self.stop(&mut state, None);
    }

    /// Waits until it is woken, or for that long.
    fn sleep<'s>(&self, mut state: MutexGuard<'s, State<B>>, longest: Option<Duration>) -> MutexGuard<'s, State<B>> {
        state.asleep = true;
        state = match longest {
            Some(longest) => self.work.wait_timeout(state, longest).unwrap_or_else(PoisonError::into_inner).0,
            None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.asleep = false;
        state
    }

    /// Appends what waits.
    fn transact<'s>(&'s self, mut state: MutexGuard<'s, State<B>>, mut loan: Loan) -> MutexGuard<'s, State<B>> {
        let waiting = state.waiting();
        state.gathering.end(waiting);
        let (groups, size) = next_groups(&mut state.given);
        drop(state);
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| append_groups(&mut loan, &groups)));
        let outcomes = result.unwrap_or_else(|_| Err(NotAppended::Failed((INTERNAL, "panic".into()))));
        let (posts, now) = (groups.iter().map(Vec::len).sum(), Instant::now());
        state = self.lock();
        let waiting = state.waiting();
        state.gathering.begin(posts, size, now - started, waiting, now);
        match outcomes {
            Ok(appended) => {
                state.lent = Lent::Yes(loan);
                let done = groups.into_iter().zip(appended);
                self.finish(&mut state, done.map(|(posts, it)| Done { posts, outcome: Ok(it) }));
            }
            Err(why) => {
                self.finish(&mut state, groups.into_iter().map(|posts| Done { posts, outcome: Err(why.clone()) }));
                self.stop(&mut state, Some(loan));
            }
        }
        if state.wanted {
            self.returned.notify_one();
        }
        state
    }
}

/// Returns the groups of the next transaction, and the bytes of their bodies.
fn next_groups<B: AsRef<[u8]>>(given: &mut VecDeque<Vec<Post<B>>>) -> (Vec<Vec<Post<B>>>, usize) {
    let (mut groups, mut size) = (Vec::new(), 0);
    while size < TRANSACTION_BYTES
        && let Some(group) = given.pop_front()
    {
        size += group.iter().map(|post| post.body.as_ref().len()).sum::<usize>();
        groups.push(group);
    }
    (groups, size)
}

/// Writes them in one transaction.
fn append_groups<B: AsRef<[u8]>>(loan: &mut Loan, groups: &[Vec<Post<B>>]) -> Result<Vec<Appended>, NotAppended> {
    let started = Instant::now();
    let posts: Vec<_> = groups.iter().flatten().collect();
    let size = loan.slack + posts.iter().map(|post| post.size).sum::<i64>();
    if size > loan.room {
        return Err(NotAppended::Left);
    }
    let bodies: Vec<_> = posts.iter().map(|post| post.body.as_ref()).collect();
    let mut digests = transcoder::digests(&bodies);
    loan.connection.append(loan.next, &posts, &digests).map_err(NotAppended::Failed)?;
    loan.room -= size;
    let mut seconds = Some(started.elapsed().as_secs_f64());
    let appended = groups.iter().map(|group| {
        let first = loan.next;
        loan.next += group.len() as i64;
        Appended { first, digests: digests.drain(..group.len()).collect(), seconds: seconds.take() }
    });
    Ok(appended.collect())
}
