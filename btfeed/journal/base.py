"""The journal's contracts: what each part of btfeed may ask of a journal, whatever keeps it.

    Intake        the receiver    appends posts, keeps rejected ones
    Outlets       the deliveries  hand out the outlets of one sink as this process gains and loses partitions
    Outlet        a delivery      one sink's way out of one partition: reads posts, saves how far the sink has come
    DeadLetters   the commands    list, export, retry and delete what could not be delivered
    Archive       the commands    the posts of a range of time, for replay
    Backlogs      the admin       how far behind each sink is
    Journal       the app         opens and closes; is an Intake, gives each sink its Outlets, and remembers pauses

btfeed/journal/create.py chooses the backend. Everything else depends on this module only.

Invariants
- A post is durable when the outcome of `append` is there. Only then may the receiver answer 200.
- A journal has one or more partitions. Within a partition, posts have ascending numbers (`seq`) and are read in that
  order. Numbers may be missing, where posts were damaged or dropped, but no number is given twice.
- A commit is atomic: the cursor, the sink's state and its dead letters are saved together, or nothing is. No commit moves
  a saved cursor back: only an operator does (`Outlet.move`).
- A post is kept until every configured sink has committed a cursor behind it, unless the journal is configured to drop
  posts, which it counts.
- A record is kept as a dead letter once per sink, however often it is added. Dead letters never take the room of posts;
  a backend may bound them, and counts those that it drops.

Errors
    JournalError
    ├── JournalFull         the size limit is reached; space comes back when sinks catch up
    ├── PostTooLarge        the journal takes no post of this size; smaller ones it does
    ├── JournalUnavailable  the disk or broker failed, or the journal is closed; the journal recovers by itself if it can
    │   └── JournalInUse    another process has it
    └── OutletGone          another process owns the partition now: stop, and save nothing more
"""

import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from btfeed.posts.post import Post
from sinks.batch import Transaction
from sinks.settings import Settings

Wants = Callable[[Transaction], bool]
"""Whether a sink wants the records of a business transaction."""
NO_TRANSACTION = Transaction("", "", "", "", "unknown")
"""Of a record whose transaction is not known."""


class Cursor(NamedTuple):
    """The next occurrence to deliver from a partition: the number of its post, and its ordinal in that post."""

    seq: int
    ordinal: int = 0


class Entry(NamedTuple):
    """A post in a partition. digest: the 32 bytes that identify its body (btfeed/posts/post.py)."""

    seq: int
    post: Post
    digest: bytes


@dataclass(frozen=True, slots=True)
class Damaged:
    """A post whose stored body does not match its digest. received: milliseconds since the epoch. If it can't be read, that
    is the time of one before it, and the body is empty. partition: where it is; None if the journal has only one."""

    seq: int
    received: int
    body: bytes
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A post or a record that could not be delivered, kept until an operator retries or deletes it.

    kind          "post": a raw body that was rejected or damaged; "record": one record as JSON
    sink          the sink it was meant for; empty if it belongs to no single sink
    time          when it last failed, in milliseconds since the epoch; of a post, when it was received or found damaged; if
                  it waits for a destination, since when it does
    tries         how often it failed
    cause         why, in a word: refused, waiting, expired, invalid, malformed, damaged ... ; the label `reason` of metrics
    destination   what it waits for, such as `topic orders`: the delivery tries it again by itself; empty if an operator
                  has to act
    event_id, key, timestamp, transaction
                  the record's columns (sinks.batch.Batch)
    id            assigned by the journal; 0 before that
    """

    kind: Literal["post", "record"]
    sink: str
    reason: str
    time: int
    body: bytes
    tries: int = 1
    event_id: str | None = None
    key: str = ""
    timestamp: int = 0
    transaction: Transaction | None = None
    id: int = 0
    destination: str = ""
    cause: str = "refused"

    @property
    def deliverable(self) -> bool:
        """Whether sinks can take it: a timestamp outside the calendar is a number there (btfeed/records)."""
        try:
            record = json.loads(self.body)
        except ValueError:
            return False
        return self.kind == "record" and isinstance(record, dict) and isinstance(record.get("timestamp"), str)

    def retried_by(self, sinks: Mapping[str, "Wants"]) -> list[str]:
        """Which of `sinks` get it if it is retried: its own, or all that want a record of no single sink. A post, which is
        appended again, counts as one that all get."""
        if self.kind == "post":
            return [""]
        if not self.deliverable:
            return []
        if self.sink:
            return [self.sink] if self.sink in sinks else []
        transaction = self.transaction or NO_TRANSACTION
        return [name for name, wants in sinks.items() if wants(transaction)]


@dataclass(frozen=True, slots=True)
class Commit:
    """What a sink has done since its last commit.

    cursor         behind the last record that is delivered or a dead letter
    state          the sink's state at that point, None if it has none
    dead_letters   new dead letters
    redelivered    ids of retried dead letters that the sink accepted
    refused_again  id of a retried dead letter -> why it was refused this time; it waits for no destination any more
    waiting_again  id of a retried dead letter -> the destination that it waits for from now on, and why. Its time stays
                   as it is if it waited before
    """

    cursor: Cursor
    state: str | None = None
    dead_letters: Sequence[DeadLetter] = ()
    redelivered: Sequence[int] = ()
    refused_again: Mapping[int, str] = field(default_factory=dict)
    waiting_again: Mapping[int, tuple[str, str]] = field(default_factory=dict)


OLDEST, LATEST = 0, 2**62
"""For `Outlet.find`: times that are not after any post, and after all of them."""


@dataclass(frozen=True, slots=True)
class Move:
    """What it means to let a sink continue elsewhere in a partition.

    partition  the partition's number
    to         where it continues
    again      how many posts it gets again, wholly or in part
    skipped    how many posts it never gets, wholly or in part
    oldest     when the oldest post that the partition still has was received, in milliseconds since the epoch; None if it
               has none
    """

    partition: int
    to: Cursor
    again: int
    skipped: int
    oldest: int | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a sink has yet to deliver. age: seconds since its oldest post was received, 0 if there is none."""

    posts: int
    age: float


class Kept(NamedTuple):
    """Dead letters that are kept, by sink and cause. oldest: the time of the oldest, see DeadLetter."""

    sink: str
    cause: str
    letters: int
    oldest: int


class Found(str):
    """What a check found that is as it should be."""


class JournalError(Exception):
    """The post was not appended, or the change not saved."""


class JournalFull(JournalError):
    """The journal has reached its size limit."""


class PostTooLarge(JournalError):
    """The journal takes no post of this size."""


class JournalUnavailable(JournalError):
    """The disk or the broker failed, or the journal is closed."""


class JournalInUse(JournalUnavailable):
    """Another process has the journal."""


class OutletGone(JournalError):
    """Another process owns the partition now. What was not saved will be delivered by that process."""


class Intake(Protocol):
    """Where posts go in. Methods raise JournalFull, PostTooLarge or JournalUnavailable."""

    @property
    def refusing(self) -> str | None:
        """Why `append` would fail now; None if it would not."""

    def append(self, post: Post) -> Awaitable[bytes]:
        """Make `post` durable. The outcome is its digest. Raises JournalError, at once or as the outcome."""

    async def add_dead_letter(self, dead_letter: DeadLetter) -> None:
        """Keep a rejected post. The oldest dead letters may be dropped to stay within a size limit."""


class Outlet(Protocol):
    """One sink's way out of one partition. Methods raise JournalUnavailable or OutletGone."""

    @property
    def partition(self) -> int:
        """The partition's number, from 0. One below 0 has dead letters to retry alone, and its cursor is never moved."""

    async def cursor(self) -> tuple[Cursor, str | None]:
        """Where to continue, and the sink's saved state."""

    async def read(self, seq: int, max_bytes: int) -> Sequence[Entry]:
        """Posts from number `seq` on: at least one if there is one, then as many as fit in `max_bytes`."""

    async def wait(self, seq: int) -> None:
        """Return when there is a post numbered `seq` or higher."""

    async def commit(self, commit: Commit) -> None:
        """Save all of `commit`, or nothing. A cursor behind the saved one leaves that one as it is."""

    async def retries(self, limit: int) -> Sequence[DeadLetter]:
        """Records of this sink that are marked for retry, the oldest first. A mark ends with the commit that names it, or
        if the record is found damaged: it is then kept with the cause `damaged`."""

    async def destinations(self) -> Mapping[str, int]:
        """Destinations that dead letters of this sink wait for -> how many."""

    async def waiting(self, destination: str, limit: int) -> Sequence[DeadLetter]:
        """Records of this sink that wait for `destination`, the oldest first; empty if nothing waits for it. One that is
        found damaged waits no more, and is kept with the cause `damaged`."""

    async def backlog(self) -> Backlog:
        """How far behind the sink is in this partition."""

    async def find(self, received: int) -> int:
        """The number of the first post that was received at this time, in milliseconds since the epoch, or later; the
        number of the next post if there is none. It takes the times to ascend: where the system's clock was set back, it
        may find another post of that time."""

    async def plan(self, seq: int) -> Move:
        """What it would mean for the sink to continue with the post numbered `seq`, or with the closest one that the
        partition has or will get next. Changes nothing."""

    async def move(self, to: Cursor) -> None:
        """Save another cursor, of which `plan` told what it means. The sink's state and its dead letters stay. No delivery
        of the sink may run in this partition."""


class Outlets(Protocol):
    """Hands out the outlets of one sink."""

    @property
    def problem(self) -> str | None:
        """What a person has to know, such as why this process gets no outlets; None if all is well."""

    @property
    def conflict(self) -> bool:
        """Whether the problem is that another process has the name of this one: they take the outlets from each other."""

    async def left(self) -> Mapping[int, str] | None:
        """Partition -> the state of the sink that this process saved there last, for partitions that it does not have now.
        None while it is not known which these are. Raises JournalUnavailable."""

    async def run(
        self, begin: Callable[[Outlet], Awaitable[None]], end: Callable[[Collection[Outlet]], Awaitable[None]]
    ) -> None:
        """Call `begin` for each outlet that this process gains, and `end` before it gives outlets up: `end` returns when
        their deliveries have stopped and saved. Returns when the journal closes. Cancel it to leave; end the deliveries
        first, since outlets that are still in use are not passed to `end` then."""


class Backlogs(Protocol):
    """Tells how far behind each sink is."""

    async def backlog(self, sink: str) -> Backlog:
        """The sink's backlog in all partitions of this process. Raises JournalError."""


class Journal(Intake, Protocol):
    """A journal as the server uses it."""

    async def open(self) -> None:
        """Prepare for use. Raises JournalUnavailable."""

    def outlets(self, sink: str) -> Outlets:
        """The outlets of a configured sink."""

    async def kept(self) -> Sequence[Kept]:
        """The dead letters of all sinks and those of no sink, counted."""

    async def paused(self) -> Mapping[str, int]:
        """The sinks that are paused -> since when, in milliseconds since the epoch."""

    async def pause(self, sink: str) -> None:
        """Remember that a sink is paused, over any restart, until `resume`. It does not stop any delivery. A sink that is
        paused already stays paused since then."""

    async def resume(self, sink: str) -> None:
        """Forget that a sink is paused."""

    async def reconfigure(self, settings: Settings, starts: Mapping[str, str], max_occurrences: int) -> None:
        """Go on with other settings and sinks, see btfeed.journal.create.create. A sink that is new begins where its start
        says, one that was configured before where it was. Posts no longer wait for a sink that is not in `starts`. Raises
        JournalError if nothing has changed, since the cursor of a new sink could not be saved."""

    async def answer(self) -> None:
        """Return when the journal has done what it was asked before, or if it says that it is held up. One that hangs does
        neither. Raises JournalUnavailable after `close`."""

    async def close(self) -> None:
        """Finish what was started, and release everything. Later calls raise JournalUnavailable."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters: those that match all of it.

    sink   only this sink's; "" for those that belong to no sink; None for any
    ids    only these; empty for any
    cause  only those with this cause; None for any
    """

    sink: str | None = None
    ids: Collection[int] = ()
    cause: str | None = None

    def includes(self, dead_letter: DeadLetter) -> bool:
        return (
            (self.sink is None or dead_letter.sink == self.sink)
            and (not self.ids or dead_letter.id in self.ids)
            and (self.cause is None or dead_letter.cause == self.cause)
        )


ALL = Selection()


class DeadLetters(Protocol):
    """The dead letters, for commands and the admin listener; a server may run on the same journal. Methods block, and
    raise JournalUnavailable."""

    def select(self, selection: Selection = ALL) -> Iterator[DeadLetter]:
        """Those that were there when it was called, the oldest first, without holding many of them in memory."""

    def newest(self, limit: int, selection: Selection = ALL, before: int = LATEST) -> Sequence[DeadLetter]:
        """The newest first: those with lower ids than `before`, at most `limit`, and fewer if they are large."""

    def count(self, selection: Selection = ALL) -> int:
        """How many `select` would give."""

    def retry(self, selection: Selection, sinks: Mapping[str, Wants]) -> int:
        """Mark dead letters for retry; returns how many could be marked. sinks: which records each sink wants.

        A post is appended again if it is valid now. A record goes to its sink, or to all of `sinks` that want it if it
        belongs to no single sink; it can't be marked if there is no such sink, or if it has no valid timestamp. A running
        server can write in between.
        """

    def delete(self, ids: Iterable[int]) -> None:
        """Delete those with these ids. Ids that don't exist are ignored. A running server can write in between."""


class Archive(Protocol):
    """The posts received in a range of time. Methods block, and raise JournalUnavailable."""

    @property
    def count(self) -> int:
        """How many posts there were when the archive was opened, damaged ones included."""

    def entries(self) -> Iterator[Entry | Damaged]:
        """Those posts, in the order of each partition. Can be called several times."""
