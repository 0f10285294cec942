"""The posts of a SQLite journal: numbers them, reads them in order, and drops them when they are no longer needed.

Invariants
- Positions, which repeat in memory what the tables say, are rolled back with a failed transaction. Metrics are counted and
  posts added to memory only once a transaction is durable.
- Numbers ascend without gaps, except for saved ones, and never go back. Posts are dropped only from the oldest end, once
  every configured sink has passed them and they are older than `retention` or their space is needed. With `when_full =
  "drop-oldest"`, posts that sinks have not passed are dropped too, and counted.
- A post is delivered only in order, and only if its digest matches its body. One that does not match becomes a dead
  letter. One that is missing without a saved gap means that the file is damaged (apsw.CorruptError).
- A dead letter whose content is damaged is neither retried nor waits: it is set aside, and those behind it are given.
- The newest posts are also in memory, from when they are durable until every sink has passed them.

Methods belong to the journal's thread and raise apsw.Error; the worker handles it (btfeed/journal/sqlite/worker.py).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial

import apsw
import structlog

from btfeed.journal.base import Backlog, Commit, Cursor, Damaged, DeadLetter, Entry, JournalFull, JournalUnavailable, Kept
from btfeed.journal.readmission import why_not
from btfeed.journal.sqlite.appender import Appender
from btfeed.journal.sqlite.database import JournalDatabase
from btfeed.journal.sqlite.dead_letter_block import Block
from btfeed.journal.sqlite.dead_letter_bound import DeadLetterBound
from btfeed.journal.sqlite.dead_letter_table import WAITING
from btfeed.journal.sqlite.layout import PAGE_SIZE, bytes_taken
from btfeed.journal.sqlite.positions import Positions
from btfeed.journal.sqlite.recent import RecentPosts
from btfeed.journal.sqlite.recovery import damaged_post
from btfeed.journal.sqlite.settings import SqliteSettings
from btfeed.posts import post as posts
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.warnings import SummedWarnings
from sinks.shared.clock import Clock

log = structlog.get_logger()

EXPIRED_POSTS = 200
"""Posts past their retention that are dropped in one transaction, so that no append waits long."""
ROOM_POSTS = 20
"""Posts that are dropped at a time to make room, so that few more are dropped than necessary."""
SLACK = 2 * PAGE_SIZE
"""Bytes that a transaction takes besides its posts, approximately."""
SMALL = SLACK + 512
"""Bytes that a small post needs. The journal is full without them, before any post is refused."""
_EVER = 2**62


class PostLog:
    """An open database and its positions. `starts` says where each configured sink begins if it has no cursor yet:
    "oldest" or "latest"."""

    def __init__(
        self,
        settings: SqliteSettings,
        starts: Mapping[str, str],
        metrics: Metrics,
        max_occurrences: int,
        recent: RecentPosts,
        clock: Clock,
    ) -> None:
        self.positions = Positions()
        self._settings = settings
        self._starts = starts
        self._metrics = metrics
        self._max_occurrences = max_occurrences
        self._recent = recent
        self._clock = clock
        self._database: JournalDatabase | None = None
        self._when_durable: list[Callable[[], object]] = []
        self._warnings = SummedWarnings(clock)
        self._bound = DeadLetterBound(settings, metrics, self._warnings)
        self._missing_room = 0  # bytes that a post needs which would be refused now; 0: none would be
        self._sure_room = 0  # bytes that are free, at least

    @property
    def database(self) -> JournalDatabase:
        if self._database is None:
            raise JournalUnavailable("the journal is not open")
        return self._database

    @property
    def is_open(self) -> bool:
        return self._database is not None

    @property
    def sinks(self) -> Collection[str]:
        """Those that are configured."""
        return self._starts.keys()

    @property
    def is_full(self) -> bool:
        """Whether a post like the one that was refused last, or else a small one, would be refused now. After a start, and
        after other settings or what makes room, `maintain` finds out."""
        return self._missing_room > 0 and self._settings.when_full == "refuse"

    def use(self, database: JournalDatabase, damaged: bool = False) -> None:
        """Use a database that was just opened instead of the current one. A sink without a cursor is new, or lost it if
        the file was `damaged`: it then starts with the oldest post."""
        saved, cursors = database.cursors(), self.positions.cursors
        paused = self.positions.paused if self.positions.next else database.paused()
        positions = Positions(
            database.first_seq(), database.last_seq(), 0, database.gaps(), {**saved, **cursors}, dict(paused)
        )
        end = max(positions.first, positions.last + 1, *(last + 1 for last in positions.gaps.values()))
        for name, start in self._starts.items():
            seq = positions.first if damaged or start == "oldest" else end
            positions.cursors.setdefault(name, (Cursor(seq), None))
        positions.next = max(end, self.positions.next, *(cursor.seq for cursor, _ in positions.cursors.values()))
        lost = positions.next - end
        with database.changing():
            for name, known in positions.cursors.items():
                if saved.get(name) != known:
                    database.save_cursor(name, *known)
            for name, since in positions.paused.items():
                database.save_paused(name, since)
            if lost:
                positions.gaps[end] = positions.next - 1
                database.save_gap(end, positions.next - 1)
        if lost:
            lost -= (delivered := max(0, positions.passed(self._starts, end) - end))
            (log.error if lost else log.warning)("newest posts lost", posts=lost, delivered=delivered)
            self._metrics.journal_lost_posts.inc(lost)
            self._metrics.journal_lost_delivered.inc(delivered)
        self.release()
        self._recent.clear()
        self._database, self.positions, self._sure_room = database, positions, 0

    def reconfigure(self, settings: SqliteSettings, starts: Mapping[str, str], max_occurrences: int) -> None:
        """Go on with these. All of `starts` have a cursor, see `add_sinks`."""
        self._settings, self._starts, self._max_occurrences = settings, starts, max_occurrences
        self._sure_room = 0
        self._bound.reconfigure(settings)

    def release(self) -> None:
        """Close the database."""
        if self._database:
            self._database.close()
            self._database = None

    def close(self) -> None:
        """Close the database, and log what is left to be logged."""
        self.release()
        self._warnings.close()

    @contextmanager
    def transaction(self) -> Iterator[JournalDatabase]:
        before = self.positions.copy()
        self._when_durable.clear()
        try:
            with self.database.changing():
                yield self.database
        except BaseException:
            self.positions = before
            raise
        for action in self._when_durable:
            action()

    def lend(self, appender: Appender) -> bool:
        """Let the appender use the connection. False if there is no room for another post, or no connection."""
        if self._database is None or self._missing_room:
            return False
        appender.lend(self._database.db, self.positions.next, self._sure_room, SLACK)
        return True

    def note_appended(self, next_seq: int, sure_room: int) -> None:
        """What the appender has come to."""
        if next_seq > self.positions.next:
            self.positions.last, self.positions.next = next_seq - 1, next_seq
            self._missing_room = 0
        self._sure_room = sure_room

    # Within a transaction

    def append(self, new: Sequence[Post]) -> list[bytes | JournalFull]:
        """Write the posts that there is room for; returns their digests in the order of `new`."""
        if not new:
            return []
        outcomes: list[bytes | JournalFull] = []
        taken: list[Entry] = []
        pending, room, exhausted = SLACK, self._room(), False
        self._missing_room = 0
        max_size = self._settings.max_size
        digests = posts.digests([post.body for post in new])
        for post, digest in zip(new, digests, strict=True):
            size = bytes_taken(post)
            if pending + size > room and not exhausted:
                room = self._make_room(pending + size)
                exhausted = pending + size > room
            if pending + size > room:
                self._missing_room = SLACK + size if SLACK + size < max_size else 0  # 0: this post will never fit
                outcomes.append(JournalFull(f"the journal has reached its max_size of {max_size} bytes"))
            else:
                pending += size
                taken.append(Entry(self.positions.next + len(taken), post, digest))
                outcomes.append(digest)
        if taken:
            self.database.insert_posts(taken)
            self._when_durable.append(partial(self._recent.add, taken))
            self.positions.last, self.positions.next = taken[-1].seq, taken[-1].seq + 1
        self._sure_room = room - pending
        return outcomes

    def add_dead_letter(self, dead_letter: DeadLetter) -> None:
        self.database.dead_letters.insert([dead_letter])
        self._bound_dead_letters()

    def add_sinks(self, starts: Mapping[str, str]) -> None:
        """Give those that have no cursor one, where their start says."""
        for name, start in starts.items():
            if name not in self.positions.cursors:
                seq = self.positions.first if start == "oldest" else self.positions.next
                self.positions.cursors[name] = (Cursor(seq), None)
                self.database.save_cursor(name, Cursor(seq), None)

    def save(self, sink: str, commit: Commit, new: Sequence[Block]) -> None:
        """All of a commit, of which `new` are the dead letters. The cursor may have been moved ahead when posts were
        dropped; it does not go back."""
        known = self.positions.cursors.get(sink)
        cursor = max(commit.cursor, known[0]) if known else commit.cursor
        self.database.save(sink, replace(commit, cursor=cursor), self._now(), new)
        self.positions.cursors[sink] = (cursor, commit.state)
        self._when_durable.append(lambda: self._recent.drop_below(self._passed()))
        if new:
            self._bound_dead_letters()

    # Outside a transaction

    def read(self, seq: int, max_bytes: int) -> list[Entry]:
        while True:
            entries, damaged = self._read_sound(self.positions.skip_gaps(seq), max_bytes)
            if entries or damaged is None:
                return entries
            self._set_aside(damaged)

    def retries(self, sink: str, limit: int) -> list[DeadLetter]:
        return self._deliverable(limit, "retry AND kind = 'record' AND sink = ?", sink)

    def destinations(self, sink: str) -> dict[str, int]:
        return self.database.dead_letters.destinations(sink)

    def waiting(self, sink: str, destination: str, limit: int) -> list[DeadLetter]:
        return self._deliverable(limit, f"{WAITING} AND destination = ?", sink, destination)

    def kept(self) -> list[Kept]:
        return self.database.dead_letters.kept()

    def backlog(self, sink: str, seq: int = 0) -> Backlog:
        seq = max(seq, self.positions.cursors[sink][0].seq)
        found = self.database.first_from(seq)
        if found is None:
            return Backlog(0, 0.0)
        return Backlog(self.positions.count(seq), max(0.0, (self._now() - found[1]) / 1000))

    def _read_sound(self, seq: int, max_bytes: int) -> tuple[list[Entry], Damaged | None]:
        """Posts from `seq` on, and the damaged one that ends them, if any."""
        entries: list[Entry] = []
        for row in self.database.posts(seq, max_bytes):
            if row.seq != seq:
                raise apsw.CorruptError(f"post {seq} is missing or out of order")
            if isinstance(row, Damaged):
                return entries, row
            entries.append(row)
            seq = self.positions.skip_gaps(seq + 1)
        if not entries and seq < self.positions.next:
            raise apsw.CorruptError(f"post {seq} is missing")
        return entries, None

    def _set_aside(self, damaged: Damaged) -> None:
        with self.transaction() as database:
            self.add_dead_letter(damaged_post(damaged))
            database.delete_post(damaged.seq)
            self.positions.gaps[damaged.seq] = damaged.seq
            self.positions.last = database.last_seq()
        self._warnings.error("damaged post moved to the dead letters", "damaged", post=damaged.seq)
        self._metrics.journal_damaged_posts.inc()
        self._metrics.dead_letters.labels(sink="", reason="damaged").inc()

    def _deliverable(self, limit: int, where: str, sink: str, *values: str) -> list[DeadLetter]:
        """Dead letters of `sink` that are not damaged, at most `limit`. Damaged ones before the last of them are set aside:
        they would be found first each time."""
        sound: list[DeadLetter] = []
        damaged: list[int] = []
        with closing(self.database.dead_letters.select(where, sink, *values)) as rows:
            while len(sound) < limit and (found := next(rows, None)):
                if found.body:
                    sound.append(found)
                else:
                    damaged.append(found.id)
        if damaged:
            with self.transaction() as database:
                database.dead_letters.set_aside(damaged)
            log.error("damaged dead letters set aside", sink=sink, count=len(damaged))
            self._metrics.dead_letters.labels(sink=sink, reason="damaged").inc(len(damaged))
        return sound

    # Room

    def _room(self) -> int:
        return self._settings.max_size - max(0, self.database.used_bytes() - self.database.dead_letters.nbytes())

    def _make_room(self, needed: int) -> int:
        """Drop what may be dropped until `needed` bytes are free; returns how many are. Posts that every sink has passed go
        first, before their retention ends."""
        while self._room() < needed and self._drop(self._passed(), _EVER, ROOM_POSTS):
            pass
        if self._settings.when_full == "drop-oldest" and needed <= self._settings.max_size:
            while self._room() < needed:
                dropped = self._drop(self.positions.next, _EVER, ROOM_POSTS)
                if not dropped:
                    break
                self._move_cursors_over(dropped)
        return self._room()

    def _look_for_room(self) -> None:
        """Find out whether the post that was refused last would still be, or else a small one."""
        needed = self._missing_room if 0 < self._missing_room < self._settings.max_size else SMALL
        refused = self._settings.when_full == "refuse" and self._make_room(needed) < needed
        self._missing_room = needed if refused else 0

    def _drop(self, before_seq: int, received_before: int, limit: int) -> list[int]:
        dropped = self.database.drop_oldest(before_seq, received_before, limit)
        if dropped:
            self.positions.first = dropped[-1] + 1
            self.positions.gaps = {first: last for first, last in self.positions.gaps.items() if last > dropped[-1]}
        return dropped

    def _passed(self) -> int:
        """Every configured sink has passed the posts numbered below this."""
        return self.positions.passed(self._starts, self.positions.next)

    def _move_cursors_over(self, dropped: Sequence[int]) -> None:
        """Move each sink that had not passed all the dropped posts behind them, and count what it lost."""
        for name in self._starts:
            cursor, state = self.positions.cursors[name]
            lost = sum(seq >= cursor.seq for seq in dropped)
            if lost:
                self.positions.cursors[name] = (Cursor(self.positions.first), state)
                self.database.save_cursor(name, *self.positions.cursors[name])
                self._when_durable.append(partial(self._count_dropped, name, lost))

    def _count_dropped(self, sink: str, posts: int) -> None:
        self._warnings.error("journal full, undelivered posts dropped", ("dropped", sink), posts, sink=sink)
        self._metrics.journal_dropped_posts.labels(sink=sink).inc(posts)

    def _bound_dead_letters(self) -> None:
        self._when_durable.append(partial(self._bound.report, self._bound.apply(self.database.dead_letters)))

    # Maintenance

    def maintain(self) -> bool:
        """Drop posts past their retention, append rejected posts marked for retry, update metrics. True if there is more
        to drop."""
        database = self.database
        if database.removed():
            database.checkpoint()  # the log may be unreachable once it is closed
            raise apsw.CorruptError("its files were deleted")
        database.relieve_log()
        with self.transaction():
            oldest = self._now() - round(self._settings.retention * 1000)
            dropped = self._drop(self._passed(), oldest, EXPIRED_POSTS)
            self._retry_posts()
            self._bound_dead_letters()
            self._look_for_room()
        self._update_metrics()
        self._warnings.flush()
        return len(dropped) == EXPIRED_POSTS or self._bound.exceeded(database.dead_letters)

    def _update_metrics(self) -> None:
        metrics, settings = self._metrics, self._settings
        used, posts = settings.max_size - self._room(), self.positions.count(0)
        metrics.journal_bytes.set(used)
        metrics.journal_limit.set(settings.max_size)
        metrics.journal_posts.set(posts)
        metrics.journal_undelivered.set(used * self.positions.count(self._passed()) / max(1, posts))
        metrics.dead_letter_bytes.set(self.database.dead_letters.nbytes())
        metrics.dead_letter_limit.set(settings.dead_letters)

    def _retry_posts(self) -> None:
        """Append rejected posts that an operator marked for retry, if they are valid now."""
        table = self.database.dead_letters
        for dead_letter in list(table.select("retry AND kind = 'post'", limit=10)):
            if why := why_not(dead_letter, self._max_occurrences):
                table.refuse_again({dead_letter.id: why}, self._now())
                continue
            (outcome,) = self.append([Post(dead_letter.body, self._now(), "dead-letter")])
            if isinstance(outcome, bytes):
                table.delete([dead_letter.id])

    def _now(self) -> int:
        """Milliseconds since the epoch."""
        return round(self._clock.time() * 1000)
