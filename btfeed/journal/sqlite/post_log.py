"""The journal on its thread while all is well: store and marks, what they take, forget, and hand out.

Invariants
- Positions, which say in short what the tables say, go back with a transaction that fails; metrics are counted when it is
  durable.
- seq ascends without gaps but for those that are noted, and never goes back. A post is forgotten only from the old end,
  once every configured sink has passed it and it is older than `retention` or room is needed. Under `when_full =
  "drop-oldest"` room is made at the cost of the sinks that are furthest behind, and counted.
- A row is delivered only if its digest fits its body, and only in turn: one that does not fit is moved to the dead
  letters, one that is missing means that the file is damaged (apsw.CorruptError).
- The newest posts are kept in memory as well, once they are durable and until every sink has passed them, so that a sink
  near the head waits for no file.

Methods raise apsw.Error; what is done about it is the engine's affair.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import apsw
import structlog

from btfeed.journal.base import Backlog, Commit, Cursor, DeadLetter, Entry, JournalFull, JournalUnavailable
from btfeed.journal.sqlite.database import Damaged, JournalDatabase
from btfeed.journal.sqlite.layout import PAGE_SIZE, bytes_taken
from btfeed.journal.sqlite.recent import Recent
from btfeed.journal.sqlite.recovery import damaged_post
from btfeed.posts import admission
from btfeed.posts import post as posts
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics
from sinks.settings import Seconds, Settings, Size

log = structlog.get_logger()

FORGET_POSTS = 200
"""Posts forgotten in one transaction, so that no append waits long."""
ROOM_POSTS = 20
"""Posts forgotten at a time for room, so that not many more go than must."""
SLACK = 2 * PAGE_SIZE
"""What a transaction may take beside its posts, about."""
_EVER = 2**62


class SqliteSettings(Settings):
    """Posts that were taken and not yet forgotten, in one SQLite file.

    directory      where it is; made if need be
    max_size       what it may hold; what was freed is used again, the file itself does not shrink
    when_full      "refuse": 503, what was taken is kept; "drop-oldest": sinks that are furthest behind lose, counted
    retention      delivered posts stay this long, as the source of `btfeed replay`
    refused_posts  refused posts that are kept with the dead letters; beyond it the oldest go
    """

    type: Literal["sqlite"] = "sqlite"
    directory: str = "btfeed-data"
    max_size: Size = 10 * 2**30
    when_full: Literal["refuse", "drop-oldest"] = "refuse"
    retention: Seconds = 24 * 3600.0
    refused_posts: Size = 64 * 2**20


@dataclass(slots=True)
class Positions:
    """What the tables say, in short.

    first    posts below it were forgotten
    last     the newest post that is there
    next     the number of the next post
    gaps     first -> last number of each range that was lost or set aside
    cursors  of each sink, and its state
    """

    first: int = 0
    last: int = 0
    next: int = 0
    gaps: dict[int, int] = field(default_factory=dict)
    cursors: dict[str, tuple[Cursor, str | None]] = field(default_factory=dict)

    def copy(self) -> "Positions":
        return replace(self, gaps=dict(self.gaps), cursors=dict(self.cursors))

    def turn(self, seq: int) -> int:
        """The first number from `seq` on that a post must have."""
        seq = max(seq, self.first)
        while seq in self.gaps:
            seq = self.gaps[seq] + 1
        return seq

    def count(self, seq: int) -> int:
        """How many posts there are from `seq` on."""
        seq = max(seq, self.first)
        return self.next - seq - sum(last - max(first, seq) + 1 for first, last in self.gaps.items() if last >= seq)


class PostLog:
    """A store, its marks, and what may be done with them. `starts` says for each configured sink where it begins if it
    is new: "oldest" or "latest"."""

    def __init__(
        self,
        settings: SqliteSettings,
        starts: Mapping[str, str],
        metrics: Metrics,
        max_occurrences: int,
    ) -> None:
        self._settings = settings
        self._starts = starts
        self._metrics = metrics
        self._max_occurrences = max_occurrences
        self._store: JournalDatabase | None = None
        self._when_durable: list[Callable[[], object]] = []
        self._recent = Recent()
        self._refused_bytes = 0  # of the bodies of refused posts, at least
        self.missing_room = 0
        """Bytes that the last refused post lacked."""
        self.marks = Positions()

    @property
    def store(self) -> JournalDatabase:
        if self._store is None:
            raise JournalUnavailable("the journal is not open")
        return self._store

    @property
    def is_open(self) -> bool:
        return self._store is not None

    def take_up(self, store: JournalDatabase, damaged: bool = False) -> None:
        """Take up a store that was just opened. Sinks without a cursor are new, or lost theirs if it was `damaged`."""
        saved, cursors = store.cursors(), self.marks.cursors
        marks = Positions(store.first_seq(), store.last_seq(), 0, store.gaps(), {**saved, **cursors})
        end = max(marks.first, marks.last + 1, *(last + 1 for last in marks.gaps.values()))
        for name, start in self._starts.items():
            seq = marks.first if damaged or start == "oldest" else end
            marks.cursors.setdefault(name, (Cursor(seq), None))
        marks.next = max(end, self.marks.next, *(cursor.seq for cursor, _ in marks.cursors.values()))
        store.begin()
        for name, known in marks.cursors.items():
            if saved.get(name) != known:
                store.save_cursor(name, *known)
        if marks.next > end:
            marks.gaps[end] = marks.next - 1
            store.save_gap(end, marks.next - 1)
        store.commit()
        if marks.next > end:
            log.error("the journal has lost its newest posts", posts=marks.next - end)
            self._metrics.journal_lost_posts.inc(marks.next - end)
        self._refused_bytes = store.refused_bytes()
        self.close()
        self._recent.clear()
        self._store, self.marks = store, marks

    def close(self) -> None:
        if self._store:
            self._store.close()
            self._store = None

    @contextmanager
    def transaction(self) -> Iterator[JournalDatabase]:
        store = self.store
        before = self.marks.copy()
        self._when_durable.clear()
        try:
            store.begin()
            yield store
            store.commit()
        except BaseException:
            self.marks = before
            store.rollback()
            raise
        for count in self._when_durable:
            count()

    # Within a transaction

    def bury(self, letter: DeadLetter) -> None:
        self.store.bury(letter)
        self._bound_refused_posts([letter])

    def save(self, sink: str, commit: Commit) -> None:
        """All that a commit says; a cursor that was moved by dropping posts does not go back."""
        known = self.marks.cursors.get(sink)
        cursor = max(commit.cursor, known[0]) if known else commit.cursor
        self.store.save(sink, replace(commit, cursor=cursor), _now())
        self.marks.cursors[sink] = (cursor, commit.state)
        self._when_durable.append(lambda: self._recent.let_go(self._passed()))
        self._bound_refused_posts(commit.dead_letters)

    def append(self, new: Sequence[Post]) -> list[bytes | JournalFull]:
        """Write those that there is room for; their digests in the order of `new`."""
        if not new:
            return []
        outcomes: list[bytes | JournalFull] = []
        taken: list[Entry] = []
        pending, room, exhausted = SLACK, self._room(), False
        self.missing_room = 0
        digests = posts.digests([post.body for post in new])
        for post, digest in zip(new, digests, strict=True):
            size = bytes_taken(post)
            if pending + size > room and not exhausted:
                room = self._make_room(pending + size)
                exhausted = pending + size > room
            if pending + size > room:
                self.missing_room = SLACK + size if SLACK + size < self._settings.max_size else 0  # which will never fit
                outcomes.append(JournalFull(f"the journal has reached its max_size of {self._settings.max_size} bytes"))
            else:
                pending += size
                taken.append(Entry(self.marks.next + len(taken), post, digest))
                outcomes.append(digest)
        if taken:
            self.store.append(taken)
            self._when_durable.append(partial(self._recent.add, taken))
            self.marks.next += len(taken)
            self.marks.last = self.marks.next - 1
        return outcomes

    # Outside of one

    def recent(self, seq: int, max_bytes: int) -> list[Entry]:
        """What `read` returns, where it is in memory; else nothing. For any thread."""
        return self._recent.read(self.marks.turn(seq), max_bytes)

    def read(self, seq: int, max_bytes: int) -> list[Entry]:
        while True:
            entries, damaged = self._sound(self.marks.turn(seq), max_bytes)
            if entries or damaged is None:
                return entries
            self._set_aside(damaged)

    def retries(self, sink: str, limit: int) -> list[DeadLetter]:
        where = "retry AND kind = 'record' AND sink = ?"
        return list(self.store.dead_letters(where, sink, limit=limit))

    def backlog(self, sink: str) -> Backlog:
        seq = self.marks.cursors[sink][0].seq
        received = self.store.received(seq)
        if received is None:
            return Backlog(0, 0.0)
        return Backlog(self.marks.count(seq), max(0.0, (_now() - received) / 1000))

    def _sound(self, seq: int, max_bytes: int) -> tuple[list[Entry], Damaged | None]:
        """Posts from `seq` on, and what ends them if it is a damaged one."""
        entries: list[Entry] = []
        for row in self.store.read(seq, max_bytes):
            if row.seq != seq:
                raise apsw.CorruptError(f"post {seq} is not where it belongs")
            if isinstance(row, Damaged):
                return entries, row
            entries.append(row)
            seq = self.marks.turn(seq + 1)
        if not entries and seq < self.marks.next:
            raise apsw.CorruptError(f"post {seq} is missing")
        return entries, None

    def _set_aside(self, damaged: Damaged) -> None:
        with self.transaction() as store:
            self.bury(damaged_post(damaged))
            store.delete_post(damaged.seq)
            self.marks.gaps[damaged.seq] = damaged.seq
            self.marks.last = store.last_seq()
        log.error("a damaged post is set aside with the dead letters", post=damaged.seq)
        self._metrics.journal_damaged_posts.inc()
        self._metrics.dead_letters.labels(sink="", reason="damaged").inc()

    # Room

    def _room(self) -> int:
        return self._settings.max_size - self.store.used_bytes()

    def _make_room(self, needed: int) -> int:
        """Forget what may be forgotten until there are `needed` bytes; returns how many there are."""
        self._forget_early(needed)
        if self._settings.when_full == "drop-oldest" and needed <= self._settings.max_size:
            while self._room() < needed:
                dropped = self._forget(self.marks.next, _EVER, ROOM_POSTS)
                if not dropped:
                    break
                self._pass_over(dropped)
        return self._room()

    def _forget_early(self, needed: int) -> None:
        while self._room() < needed and self._forget(self._passed(), _EVER, ROOM_POSTS):
            pass

    def _forget(self, before_seq: int, received_before: int, limit: int) -> list[int]:
        forgotten = self.store.forget(before_seq, received_before, limit)
        if forgotten:
            self.marks.first = forgotten[-1] + 1
            self.marks.gaps = {first: last for first, last in self.marks.gaps.items() if last > forgotten[-1]}
        return forgotten

    def _passed(self) -> int:
        """Every configured sink is past the posts numbered below this."""
        return min((self.marks.cursors[name][0].seq for name in self._starts), default=self.marks.next)

    def _pass_over(self, dropped: Sequence[int]) -> None:
        """Posts were dropped that not every sink has had."""
        for name in self._starts:
            cursor, state = self.marks.cursors[name]
            lost = sum(seq >= cursor.seq for seq in dropped)
            if lost:
                self.marks.cursors[name] = (Cursor(self.marks.first), state)
                self.store.save_cursor(name, *self.marks.cursors[name])
                self._when_durable.append(partial(self._count_dropped, name, lost))

    def _count_dropped(self, sink: str, posts: int) -> None:
        log.error("posts dropped undelivered: the journal is full", sink=sink, posts=posts)
        self._metrics.journal_dropped_posts.labels(sink=sink).inc(posts)

    def _bound_refused_posts(self, letters: Iterable[DeadLetter]) -> None:
        """Keep the bodies of refused posts within their bound; well within, for looking at all of them takes a while."""
        self._refused_bytes += sum(len(letter.body) for letter in letters if letter.kind == "post")
        if self._refused_bytes > self._settings.refused_posts:
            evicted = self.store.evict_refused_posts(self._settings.refused_posts * 7 // 8)
            self._refused_bytes = self.store.refused_bytes()
            self._when_durable.append(partial(self._metrics.dead_letters_evicted.inc, evicted))

    # Maintenance

    def maintain(self) -> bool:
        store = self.store
        if store.removed():
            store.checkpoint()  # the log may be out of reach as soon as it is closed
            raise apsw.CorruptError("its files were taken away")
        store.relieve_log()
        with self.transaction():
            oldest = _now() - round(self._settings.retention * 1000)
            forgotten = self._forget(self._passed(), oldest, FORGET_POSTS)
            self._retry_posts()
            if self.missing_room:
                self._forget_early(self.missing_room)
                if self._room() >= self.missing_room:
                    self.missing_room = 0
        self._metrics.journal_bytes.set(store.used_bytes())
        self._metrics.journal_posts.set(self.marks.count(0))
        return len(forgotten) == FORGET_POSTS

    def _retry_posts(self) -> None:
        """Take up refused posts that a person wants tried again."""
        for letter in list(self.store.dead_letters("retry AND kind = 'post'", limit=10)):
            try:
                admission.admit(letter.body, self._max_occurrences)
            except posts.PostRefused as error:
                self.store.refuse_again({letter.id: str(error)}, _now())
                continue
            (outcome,) = self.append([Post(letter.body, _now(), "dead-letter")])
            if isinstance(outcome, bytes):
                self.store.delete_dead_letters([letter.id])


def _now() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
