"""What a journal is: posts in the order in which they were taken, how far each sink has come, and the dead letters.

    JournalError
    ├── JournalFull         max_size is reached; room comes with delivery, or from a person
    └── JournalUnavailable  the disk (or broker) failed; the journal tries by itself until it works again

`append` returns when the post is durable, and only then may anybody answer 200. Everything that one batch changed (the
cursor, the sink's state, its dead letters) is saved by one `commit`, as a whole or not at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from btfeed.posts.post import Post
from sinks.batch import Transaction


class Cursor(NamedTuple):
    """The next occurrence to deliver: the number of its post in the journal, and its ordinal in that post."""

    seq: int
    ordinal: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A post in the journal. digest: 32 bytes that name its body (btfeed/posts/post.py)."""

    seq: int
    post: Post
    digest: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What could not be delivered and is kept for a person.

    kind          "post": a raw body that was refused or damaged; "record": one record as JSON
    sink          which sink refused it; empty where no sink was asked
    time          milliseconds since the epoch, when it was refused last
    tries         how often it was refused
    event_id, key, timestamp, transaction
                  of a record: its columns (sinks.base.Batch)
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


@dataclass(frozen=True, slots=True)
class Commit:
    """What a sink has done since its last commit.

    dead_letters  records refused for the first time
    redelivered   ids of dead letters that the sink took when they were tried again
    refused_again id of such a dead letter -> why it was refused this time
    """

    cursor: Cursor
    state: str | None = None
    dead_letters: Sequence[DeadLetter] = ()
    redelivered: Sequence[int] = ()
    refused_again: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a sink has still to deliver. age: seconds since its oldest post was received, 0 where there is none."""

    posts: int
    age: float


class JournalError(Exception):
    """The post was not taken, or the change not saved."""


class JournalFull(JournalError):
    """max_size is reached."""


class JournalUnavailable(JournalError):
    """The disk or the broker failed."""


class Journal(Protocol):
    """Posts taken and not yet forgotten. All methods but `close` raise JournalError."""

    @property
    def refusing(self) -> str | None:
        """Why a post would not be taken now, None where it would."""

    async def append(self, post: Post) -> bytes:
        """Make `post` durable; returns its digest."""

    async def bury(self, letter: DeadLetter) -> None:
        """Keep a dead letter."""

    async def cursor(self, sink: str) -> tuple[Cursor, str | None]:
        """Where that sink goes on, and its state."""

    async def read(self, seq: int, max_bytes: int) -> Sequence[Entry]:
        """Posts from number `seq` on, at least one where there is one, then as many as fit in `max_bytes`."""

    async def wait(self, seq: int) -> None:
        """Return when there is a post numbered `seq` or higher."""

    async def commit(self, sink: str, commit: Commit) -> None:
        """Save how far a sink has come."""

    async def retries(self, sink: str, limit: int) -> Sequence[DeadLetter]:
        """Dead letters of that sink that a person wants tried again."""

    async def backlog(self, sink: str) -> Backlog:
        """How far behind that sink is."""

    async def close(self) -> None:
        """Finish what was begun, and let go."""
