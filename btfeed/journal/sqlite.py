"""The embedded journal: SQLite, on one thread and one connection.

Invariants
- A post is durable when `append` returns: write-ahead log, synchronous=FULL, and the future is resolved after COMMIT.
- Whatever waits when the thread comes round is one transaction (group commit), so that one fsync serves all of it.
- seq ascends without gaps; a post is forgotten only from the old end, once every configured sink has passed it and it is
  older than `retention` or room is needed. Under `when_full = "drop-oldest"` room is made at the cost of the sinks that
  are furthest behind, and counted.
- A row is delivered only if its digest still fits its body. One that does not fit is moved to the dead letters.

Failure
- The disk refuses a write (full, EIO, read-only): everything that waited fails, the thread goes on trying twice a second,
  and takes posts again when a write from an empty log succeeded. Reading goes on meanwhile, so that sinks do.
- SQLite finds the file damaged: it is set aside under another name, a new one is begun, and every row that can be read is
  carried over (btfeed/journal/salvage.py). It is never a reason not to start.
"""

import asyncio
import fcntl
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import apsw
import structlog

from btfeed import post as posts
from btfeed.journal.base import (
    Backlog,
    Commit,
    Cursor,
    DeadLetter,
    Entry,
    JournalError,
    JournalFull,
    JournalUnavailable,
)
from btfeed.journal.salvage import set_aside_and_salvage
from btfeed.journal.store import PAGE_SIZE, Pruned, Store
from btfeed.metrics import Metrics
from btfeed.post import Post
from sinks.base import Seconds, Settings, Size

log = structlog.get_logger()

GROUP_BYTES = 32 * 2**20
"""Bodies that one transaction takes at most."""
GROUP_JOBS = 1_000
TICK = 0.5
"""Seconds between rounds of maintenance, and between attempts to recover from a disk error."""
PRUNE_POSTS = 200
"""Posts forgotten in one transaction, so that no append waits long."""


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
class _Job:
    """Something for the journal's thread. A job with a `post` is an append, and `run` is not called."""

    future: "asyncio.Future[Any]"
    run: Callable[[Store], Any]
    writes: bool
    post: Post | None = None


class SqliteJournal:
    """See btfeed.journal.base.Journal. `starts` says for each configured sink where it begins if it is new: "oldest" or
    "latest"."""

    def __init__(
        self,
        settings: SqliteSettings,
        starts: Mapping[str, str],
        metrics: Metrics,
        max_occurrences: int,
        vfs: str | None = None,
    ) -> None:
        self._settings = settings
        self._directory = Path(settings.directory)
        self._starts = starts
        self._metrics = metrics
        self._max_occurrences = max_occurrences
        self._vfs = vfs
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._grown = asyncio.Event()
        self._head = 1  # next_seq as the event loop knows it
        # What follows belongs to the journal's thread.
        self._store: Store | None = None
        self._next_seq = 1
        self._cursors: dict[str, tuple[Cursor, str | None]] = {}
        self._broken: str | None = None
        self._missing_room = 0  # bytes that the last refused post lacked
        self._next_tick = 0.0

    # On the event loop

    async def open(self) -> None:
        """Take hold of the directory. Raises JournalUnavailable where another process has it, or the disk fails."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = (self._directory / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise JournalUnavailable(f"{self._directory} is in use by another btfeed") from None
        except OSError as error:
            raise JournalUnavailable(f"can't use {self._directory}: {error}") from None
        self._thread.start()
        await self._opened

    @property
    def refusing(self) -> str | None:
        if self._broken:
            return self._broken
        return "the journal is full" if self._missing_room else None

    async def append(self, post: Post) -> None:
        if self._broken:  # the thread may be busy trying to recover; nobody waits for that
            raise JournalUnavailable(self._broken)
        await self._submit(_nothing, writes=True, post=post)

    async def bury(self, letter: DeadLetter) -> None:
        await self._submit(lambda store: store.bury(letter), writes=True)

    async def cursor(self, sink: str) -> tuple[Cursor, str | None]:
        return self._cursors[sink]

    async def read(self, seq: int, max_bytes: int) -> Sequence[Entry]:
        entries: Sequence[Entry] = await self._submit(lambda store: self._read(store, seq, max_bytes))
        return entries

    async def wait(self, seq: int) -> None:
        while self._head <= seq:
            await self._grown.wait()

    async def commit(self, sink: str, commit: Commit) -> None:
        def run(store: Store) -> None:
            store.save(sink, commit, _now())
            self._cursors[sink] = (commit.cursor, commit.state)

        await self._submit(run, writes=True)

    async def retries(self, sink: str, limit: int) -> Sequence[DeadLetter]:
        where = "retry AND kind = 'record' AND sink = ?"
        letters: Sequence[DeadLetter] = await self._submit(lambda store: list(store.dead_letters(where, sink, limit=limit)))
        return letters

    async def backlog(self, sink: str) -> Backlog:
        def run(store: Store) -> Backlog:
            seq = self._cursors[sink][0].seq
            received = store.received(seq)
            if received is None:
                return Backlog(0, 0.0)
            first = store.first_seq() or seq
            return Backlog(self._next_seq - max(seq, first), max(0.0, (_now() - received) / 1000))

        backlog: Backlog = await self._submit(run)
        return backlog

    async def close(self) -> None:
        if not self._thread.is_alive():
            return
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._lock.close()

    async def _submit(self, run: Callable[[Store], Any], writes: bool = False, post: Post | None = None) -> Any:
        future = self._loop.create_future()
        self._jobs.put(_Job(future, run, writes, post))
        return await future

    def _resolve(self, done: Sequence[tuple[_Job, Any]], head: int) -> None:
        for job, outcome in done:
            if job.future.done():  # whoever asked has gone
                continue
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)
        if head > self._head:
            self._head = head
            self._grown.set()
            self._grown = asyncio.Event()

    # On the journal's thread

    def _work(self) -> None:
        try:
            self._open_store()
        except Exception as error:  # noqa: BLE001 - whatever it is, `open` raises it
            unavailable = JournalUnavailable(f"can't open the journal in {self._directory}: {error}")
            self._loop.call_soon_threadsafe(self._opened.set_exception, unavailable)
            return
        self._loop.call_soon_threadsafe(self._opened.set_result, None)
        stopping = False
        while not stopping:
            jobs, stopping = self._collect()
            self._run([job for job in jobs if job.writes], self._write_group)
            for job in jobs:
                if not job.writes:
                    self._run([job], self._read_one)
            if time.monotonic() >= self._next_tick:
                self._maintain()
                self._next_tick = time.monotonic() + TICK
        if self._store:
            self._store.close()

    def _collect(self) -> tuple[list[_Job], bool]:
        """Wait for a job, at most until the next tick; then take what else is there. True: it was the last."""
        jobs: list[_Job] = []
        size = 0
        try:
            job = self._jobs.get(timeout=max(0.0, self._next_tick - time.monotonic()))
            while job is not None:
                jobs.append(job)
                size += len(job.post.body) if job.post else 0
                if size > GROUP_BYTES or len(jobs) >= GROUP_JOBS:
                    return jobs, False
                job = self._jobs.get_nowait()
        except queue.Empty:
            return jobs, False
        return jobs, True

    def _run(self, jobs: list[_Job], action: Callable[[list[_Job]], list[Any]]) -> None:
        if not jobs:
            return
        outcomes: list[Any]
        try:
            outcomes = action(jobs)
        except JournalError as error:
            outcomes = [error] * len(jobs)
        except apsw.Error as error:
            self._fail(error)
            outcomes = [JournalUnavailable(f"the journal failed: {error}")] * len(jobs)
        except Exception as error:
            log.exception("a bug in the journal")
            outcomes = [JournalUnavailable(f"the journal failed: {error!r}")] * len(jobs)
        done = list(zip(jobs, outcomes, strict=True))
        self._loop.call_soon_threadsafe(self._resolve, done, self._next_seq)

    def _read_one(self, jobs: list[_Job]) -> list[Any]:
        if self._store is None:
            raise JournalUnavailable(self._broken or "closed")
        return [jobs[0].run(self._store)]

    def _write_group(self, jobs: list[_Job]) -> list[Any]:
        store = self._store
        if store is None or self._broken:
            raise JournalUnavailable(self._broken or "closed")
        started = time.perf_counter()
        cursors, next_seq = dict(self._cursors), self._next_seq
        try:
            store.begin()
            outcomes = self._append(store, jobs)
            outcomes.update({id(job): job.run(store) for job in jobs if job.post is None})
            store.commit()
        except BaseException:
            self._cursors, self._next_seq = cursors, next_seq
            store.rollback()
            raise
        self._metrics.journal_commit_seconds.observe(time.perf_counter() - started)
        return [outcomes[id(job)] for job in jobs]

    def _append(self, store: Store, jobs: list[_Job]) -> dict[int, Any]:
        """Write the posts among `jobs` that there is room for."""
        outcomes: dict[int, Any] = {}
        taken: list[Post] = []
        appends = [(job, job.post, len(job.post.body) + PAGE_SIZE) for job in jobs if job.post]
        room = self._make_room(store, sum(size for _, _, size in appends))
        for job, post, size in appends:
            if size > room:
                self._missing_room = size
                outcomes[id(job)] = JournalFull(f"the journal has reached its max_size of {self._settings.max_size} bytes")
                continue
            room -= size
            taken.append(post)
            outcomes[id(job)] = None
        if taken:
            store.append(self._next_seq, taken)
            self._next_seq += len(taken)
        return outcomes

    def _make_room(self, store: Store, needed: int) -> int:
        """Bytes that the journal may still take; where that is less than `needed`, after forgetting what it may."""

        def room() -> int:
            return self._settings.max_size - store.used_bytes()

        passed = self._passed()
        while room() < needed and store.prune(passed, _now() + 1, PRUNE_POSTS).posts:
            pass
        while room() < needed and self._settings.when_full == "drop-oldest":
            pruned = store.prune(self._next_seq, _now() + 1, 1 + PRUNE_POSTS // 10)
            if not pruned.posts:
                break
            self._pass_over(store, pruned)
        return room()

    def _passed(self) -> int:
        """Every configured sink is past the posts numbered below this."""
        return min(
            (cursor.seq for name, (cursor, _) in self._cursors.items() if name in self._starts), default=self._next_seq
        )

    def _pass_over(self, store: Store, pruned: Pruned) -> None:
        """Posts were dropped that not every sink has had."""
        for name, (cursor, state) in self._cursors.items():
            lost = min(pruned.posts, pruned.last_seq + 1 - cursor.seq)
            if name in self._starts and lost > 0:
                log.error("posts dropped undelivered: the journal is full", sink=name, posts=lost)
                self._metrics.journal_dropped_posts.labels(sink=name).inc(lost)
                moved = Cursor(pruned.last_seq + 1)
                store.save_cursor(name, moved, state)
                self._cursors[name] = (moved, state)

    def _read(self, store: Store, seq: int, max_bytes: int) -> list[Entry]:
        entries: list[Entry] = []
        damaged: list[Entry] = []
        for entry in store.read(seq, max_bytes):
            (entries if posts.digest(entry.post.body) == entry.post.digest else damaged).append(entry)
        if damaged:
            self._set_aside(store, damaged)
            return entries or self._read(store, damaged[-1].seq + 1, max_bytes)
        return entries

    def _set_aside(self, store: Store, damaged: Sequence[Entry]) -> None:
        """Move rows whose body is not what was received to the dead letters."""
        store.begin()
        try:
            for entry in damaged:
                reason = f"damaged in the journal (post {entry.seq}): the body does not fit its digest"
                store.bury(DeadLetter("post", "", reason, _now(), entry.post.body))
                store.delete_post(entry.seq)
            store.commit()
        except apsw.Error:
            store.rollback()
            raise
        log.error("damaged posts set aside with the dead letters", posts=[entry.seq for entry in damaged])
        self._metrics.journal_damaged_posts.inc(len(damaged))
        self._metrics.dead_letters.labels(sink="", reason="damaged").inc(len(damaged))

    # Opening, maintenance and recovery, on the journal's thread

    def _open_store(self) -> None:
        try:
            self._use(Store.open(self._directory, self._vfs))
        except (apsw.CorruptError, apsw.NotADBError) as error:
            self._salvage(error)

    def _use(self, store: Store) -> None:
        """Take up a store that was just opened: where it ends, and where each sink stands."""
        self._store = store
        self._next_seq = store.next_seq()
        first = store.first_seq() or self._next_seq
        self._cursors = store.cursors()
        for name, start in self._starts.items():
            if name not in self._cursors:
                self._cursors[name] = (Cursor(first if start == "oldest" else self._next_seq), None)
                store.save_cursor(name, *self._cursors[name])
        self._loop.call_soon_threadsafe(self._resolve, (), self._next_seq)

    def _fail(self, error: apsw.Error) -> None:
        """After an error of SQLite: recover now from a damaged file, later from a failing disk."""
        self._metrics.journal_errors.inc()
        if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
            try:
                self._salvage(error)
                return
            except (apsw.Error, OSError) as worse:
                error = worse if isinstance(worse, apsw.Error) else apsw.IOError(str(worse))
        self._broken = f"the journal failed: {error}"
        log.error("the journal refuses posts until its disk works again", error=str(error))

    def _salvage(self, error: apsw.Error) -> None:
        if self._store:
            self._store.close()
            self._store = None
        store, found = set_aside_and_salvage(self._directory, self._vfs)
        log.error(
            "the journal's file was damaged and is set aside", error=str(error), file=str(found.damaged_file),
            carried_over=found.posts, set_aside=found.damaged_posts, lost=found.lost_posts,
        )  # fmt: skip
        self._metrics.journal_damaged_posts.inc(found.damaged_posts)
        self._metrics.journal_lost_posts.inc(found.lost_posts)
        self._use(store)

    def _maintain(self) -> None:
        try:
            if self._broken:
                self._heal()
            store = self._store
            if store is None:
                return
            self._forget(store)
            self._metrics.journal_bytes.set(store.used_bytes())
            self._metrics.journal_posts.set(self._next_seq - (store.first_seq() or self._next_seq))
        except apsw.Error as error:
            if not self._broken:
                self._fail(error)

    def _heal(self) -> None:
        """Try to write again, on a new connection."""
        if self._store:
            self._store.close()
            self._store = None
        self._open_store()
        assert self._store is not None
        self._store.probe()
        self._broken = None
        log.info("the journal takes posts again")

    def _forget(self, store: Store) -> None:
        """Drop posts past their retention and refused posts past their bound; take up refused posts that a person wants
        tried again."""
        store.begin()
        try:
            oldest = _now() - round(self._settings.retention * 1000)
            store.prune(self._passed(), oldest, PRUNE_POSTS)
            evicted = store.evict_refused_posts(self._settings.refused_posts)
            self._retry_posts(store)
            if self._missing_room and self._make_room(store, self._missing_room) >= self._missing_room:
                self._missing_room = 0
            store.commit()
        except apsw.Error:
            store.rollback()
            raise
        if evicted:
            self._metrics.dead_letters_evicted.inc(evicted)

    def _retry_posts(self, store: Store) -> None:
        for letter in list(store.dead_letters("retry AND kind = 'post'", limit=10)):
            try:
                posts.admit(letter.body, self._max_occurrences)
            except posts.PostRefused as error:
                store.refuse_again([(letter.id, str(error))], _now())
                continue
            post = Post(letter.body, posts.digest(letter.body), _now(), "dead-letter")
            store.append(self._next_seq, [post])
            store.delete_dead_letters([letter.id])
            self._next_seq += 1


def _nothing(store: Store) -> None:
    """What an append runs besides being an append."""


def _now() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
