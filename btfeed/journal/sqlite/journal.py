"""The embedded journal: SQLite, on one thread and one connection.

Here is what happens on the event loop, and the thread's own loop: jobs go to the thread through a queue, their outcomes
come back as futures. What the thread does with them is in engine (group commit, recovery), ledger (what is taken,
forgotten and handed out), store (statements) and salvage (what is done with a damaged file).

A post is durable when `append` returns: write-ahead log, synchronous=FULL, and its future is resolved after COMMIT.
"""

import asyncio
import fcntl
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from btfeed.journal.base import Backlog, Commit, Cursor, DeadLetter, Entry, JournalUnavailable
from btfeed.journal.sqlite.post_log import PostLog
from btfeed.journal.sqlite.post_log import SqliteSettings as SqliteSettings
from btfeed.journal.sqlite.worker import JournalWorker
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics

GROUP_BYTES = 32 * 2**20
"""Bodies that one transaction takes at most."""
GROUP_JOBS = 1_000
TICK = 0.5
"""Seconds between rounds of maintenance, and between attempts to recover from a disk error."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Something for the journal's thread: a post to append, or something to ask or change."""

    future: "asyncio.Future[Any]"
    work: Post | Callable[[PostLog], Any]
    writes: bool


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
        self._directory = Path(settings.directory)
        ledger = PostLog(settings, starts, metrics, max_occurrences)
        self._engine = JournalWorker(self._directory, ledger, metrics, vfs)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self._grown = asyncio.Event()
        self._head = 1  # one past the newest post, as the event loop knows it

    # On the event loop

    async def open(self) -> None:
        """Take hold of the directory. Raises JournalUnavailable where another process has it, or the disk fails."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = (self._directory / "lock").open("w")
        except OSError as error:
            raise JournalUnavailable(f"can't use {self._directory}: {error}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._thread.start()
            await self._opened
        except BlockingIOError:
            self._lock.close()
            raise JournalUnavailable(f"{self._directory} is in use by another btfeed") from None
        except JournalUnavailable:
            self._lock.close()
            raise

    @property
    def refusing(self) -> str | None:
        return self._engine.refusing

    async def append(self, post: Post) -> bytes:
        if self._engine.broken:  # the thread may be busy trying to recover; nobody waits for that
            raise JournalUnavailable(self._engine.broken)
        digest: bytes = await self._submit(post, writes=True)
        return digest

    async def bury(self, letter: DeadLetter) -> None:
        await self._submit(lambda ledger: ledger.bury(letter), writes=True)

    async def cursor(self, sink: str) -> tuple[Cursor, str | None]:
        return self._engine.ledger.marks.cursors[sink]

    async def read(self, seq: int, max_bytes: int) -> Sequence[Entry]:
        entries: Sequence[Entry] = self._engine.ledger.recent(seq, max_bytes)
        return entries or await self._submit(lambda ledger: ledger.read(seq, max_bytes))

    async def wait(self, seq: int) -> None:
        while self._head <= seq:
            await self._grown.wait()

    async def commit(self, sink: str, commit: Commit) -> None:
        await self._submit(lambda ledger: ledger.save(sink, commit), writes=True)

    async def retries(self, sink: str, limit: int) -> Sequence[DeadLetter]:
        letters: Sequence[DeadLetter] = await self._submit(lambda ledger: ledger.retries(sink, limit))
        return letters

    async def backlog(self, sink: str) -> Backlog:
        backlog: Backlog = await self._submit(lambda ledger: ledger.backlog(sink))
        return backlog

    async def close(self) -> None:
        """Do what was submitted before, and let go."""
        self._closing = True
        if self._thread.is_alive():
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
            self._lock.close()

    async def _submit(self, work: Post | Callable[[PostLog], Any], writes: bool = False) -> Any:
        if self._closing:
            raise JournalUnavailable("the journal is closed")
        future = self._loop.create_future()
        self._jobs.put(_Job(future, work, writes))
        return await future

    def _resolve(self, jobs: Sequence[_Job], outcomes: Sequence[Any], head: int) -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.future.done():  # whoever asked has gone
                continue
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)
        grown, self._head = head > self._head, head
        if grown:
            self._grown.set()
            self._grown = asyncio.Event()

    # On the journal's thread

    def _work(self) -> None:
        engine = self._engine
        try:
            engine.open()
        except Exception as error:  # noqa: BLE001 - whatever it is, `open` raises it
            unavailable = JournalUnavailable(f"can't open the journal in {self._directory}: {error}")
            self._loop.call_soon_threadsafe(self._opened.set_exception, unavailable)
            return
        self._tell([], [])
        self._loop.call_soon_threadsafe(self._opened.set_result, None)
        next_tick = 0.0
        stopping = False
        while not stopping:
            jobs, stopping = self._collect(next_tick)
            writes = [job for job in jobs if job.writes]
            if writes:
                self._tell(writes, engine.write([job.work for job in writes]))
            for job in jobs:
                if not job.writes and not isinstance(job.work, Post):
                    self._tell([job], [engine.ask(job.work)])
            if time.monotonic() >= next_tick:
                more = engine.tick()
                next_tick = time.monotonic() + (0.0 if more else TICK)
                self._tell([], [])
        engine.ledger.close()

    def _collect(self, next_tick: float) -> tuple[list[_Job], bool]:
        """Wait for a job, at most until the next tick; then take what else is there. True: it was the last."""
        jobs: list[_Job] = []
        size = 0
        try:
            job = self._jobs.get(timeout=max(0.0, next_tick - time.monotonic()))
            while job is not None:
                jobs.append(job)
                size += len(job.work.body) if isinstance(job.work, Post) else 0
                if size > GROUP_BYTES or len(jobs) >= GROUP_JOBS:
                    return jobs, False
                job = self._jobs.get_nowait()
        except queue.Empty:
            return jobs, False
        return jobs, True

    def _tell(self, jobs: Sequence[_Job], outcomes: Sequence[Any]) -> None:
        self._loop.call_soon_threadsafe(self._resolve, jobs, outcomes, self._engine.ledger.marks.last + 1)
