"""The embedded journal as the event loop sees it: one partition, in one SQLite file.

Jobs go to the journal's thread (btfeed/journal/sqlite/thread.py). Posts near the head are read from memory, without it.
A post is durable when `append` returns: write-ahead log, synchronous=FULL, and the outcome is sent after COMMIT.
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import structlog

from btfeed.journal.base import Backlog, Commit, Cursor, DeadLetter, Entry, JournalUnavailable, Kept, Move, Outlet
from btfeed.journal.sqlite import steering
from btfeed.journal.sqlite.appender import Appended
from btfeed.journal.sqlite.check import LOCK, cant_open, check_directory, in_use
from btfeed.journal.sqlite.dead_letter_block import blocks
from btfeed.journal.sqlite.post_log import PostLog
from btfeed.journal.sqlite.recent import RecentPosts
from btfeed.journal.sqlite.settings import TUNING, SqliteSettings, Tuning
from btfeed.journal.sqlite.thread import JournalThread
from btfeed.journal.sqlite.worker import JournalWorker
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics
from sinks.settings import Settings
from sinks.shared.clock import SYSTEM_CLOCK, Clock
from sinks.shared.private import create_directory, open_file
from sinks.shared.reasons import explain_file

log = structlog.get_logger()


class SqliteJournal:
    """See btfeed.journal.base.Journal. `starts` says where each configured sink begins if it is new: "oldest" or
    "latest"."""

    def __init__(
        self,
        settings: SqliteSettings,
        starts: Mapping[str, str],
        metrics: Metrics,
        max_occurrences: int,
        vfs: str | None = None,
        *,
        tuning: Tuning = TUNING,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._directory = directory = Path(settings.directory)
        self._recent = recent = RecentPosts(tuning.recent_bytes)
        self._clock = clock
        self._closed = asyncio.Event()
        self._lock: TextIO | None = None

        def create_worker(report: Callable[[], None], stopping: Callable[[], bool]) -> JournalWorker:
            post_log = PostLog(settings, starts, metrics, max_occurrences, recent, clock)
            return JournalWorker(directory, post_log, metrics, vfs, tuning, clock, report, stopping)

        debug = log.is_enabled_for(logging.DEBUG)

        def on_appended(appended: Appended) -> None:
            recent.add(appended.entries)
            if appended.seconds is not None:
                metrics.journal_commit_seconds.observe(appended.seconds)
                if debug:
                    log.debug("commit done", jobs=len(appended.entries), seconds=appended.seconds)

        self._thread = JournalThread(create_worker, tuning, on_appended)

    async def open(self) -> None:
        """Lock the directory and open the journal. Raises JournalUnavailable if another process uses it or the disk
        fails."""
        directory = self._directory
        check_directory(directory)
        try:
            create_directory(directory)
            lock = os.fdopen(open_file(directory / LOCK), "w")
        except OSError as error:
            raise JournalUnavailable(f"can't use {directory}: {explain_file(error)}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            await self._thread.start()
        except BlockingIOError:
            lock.close()
            raise in_use(directory) from None
        except BaseException as error:  # whatever it is, the journal is not open
            lock.close()
            if isinstance(error, Exception):
                raise cant_open(directory, error) from None
            raise
        self._lock = lock

    @property
    def refusing(self) -> str | None:
        return self._thread.snapshot.refusing

    def append(self, post: Post) -> "asyncio.Future[bytes]":
        return self._thread.submit(post)

    async def add_dead_letter(self, dead_letter: DeadLetter) -> None:
        await self._thread.change(lambda post_log: post_log.add_dead_letter(dead_letter))

    def outlets(self, sink: str) -> "SqliteOutlets":
        return SqliteOutlets(self.outlet(sink), self._closed)

    def outlet(self, sink: str) -> "SqliteOutlet":
        """The sink's only outlet."""
        return SqliteOutlet(sink, self._thread, self._recent)

    async def kept(self) -> Sequence[Kept]:
        return await self._thread.ask(lambda post_log: post_log.kept())

    async def paused(self) -> Mapping[str, int]:
        return await self._thread.ask(lambda post_log: dict(post_log.positions.paused))

    async def pause(self, sink: str) -> None:
        now = round(self._clock.time() * 1000)
        await self._thread.change(lambda post_log: steering.pause(post_log, sink, now))

    async def resume(self, sink: str) -> None:
        await self._thread.change(lambda post_log: steering.resume(post_log, sink))

    async def reconfigure(self, settings: Settings, starts: Mapping[str, str], max_occurrences: int) -> None:
        assert isinstance(settings, SqliteSettings)
        if starts.keys() - self._thread.snapshot.cursors.keys():
            await self._thread.change(lambda post_log: post_log.add_sinks(starts))
        await self._thread.ask(lambda post_log: post_log.reconfigure(settings, starts, max_occurrences))

    async def answer(self) -> None:
        if not self._thread.snapshot.held_up:
            await self._thread.ask(lambda post_log: None)

    async def close(self) -> None:
        await self._thread.stop()
        self._closed.set()
        self._recent.clear()
        if self._lock:
            self._lock.close()


class SqliteOutlets:
    """See btfeed.journal.base.Outlets: one outlet, from open to close."""

    problem: str | None = None
    conflict = False

    def __init__(self, outlet: "SqliteOutlet", closed: asyncio.Event) -> None:
        self._outlet = outlet
        self._closed = closed

    async def run(
        self, begin: Callable[[Outlet], Awaitable[None]], end: Callable[[Collection[Outlet]], Awaitable[None]]
    ) -> None:
        await begin(self._outlet)
        await self._closed.wait()

    async def left(self) -> Mapping[int, str] | None:
        return {}


class SqliteOutlet:
    """See btfeed.journal.base.Outlet."""

    partition = 0

    def __init__(self, sink: str, thread: JournalThread, recent: RecentPosts) -> None:
        self._sink = sink
        self._thread = thread
        self._recent = recent

    async def cursor(self) -> tuple[Cursor, str | None]:
        return self._thread.snapshot.cursors[self._sink]

    async def read(self, seq: int, max_bytes: int) -> Sequence[Entry]:
        first = self._thread.snapshot.first  # dropped posts may still be in memory
        entries = self._recent.find(max(seq, first), max_bytes)
        return entries or await self._thread.ask(lambda post_log: post_log.read(seq, max_bytes))

    async def wait(self, seq: int) -> None:
        await self._thread.wait(seq)

    async def commit(self, commit: Commit) -> None:
        new = await asyncio.to_thread(lambda: list(blocks(commit.dead_letters))) if commit.dead_letters else []
        await self._thread.change(lambda post_log: post_log.save(self._sink, commit, new))

    async def retries(self, limit: int) -> Sequence[DeadLetter]:
        return await self._thread.ask(lambda post_log: post_log.retries(self._sink, limit))

    async def destinations(self) -> Mapping[str, int]:
        return await self._thread.ask(lambda post_log: post_log.destinations(self._sink))

    async def waiting(self, destination: str, limit: int) -> Sequence[DeadLetter]:
        return await self._thread.ask(lambda post_log: post_log.waiting(self._sink, destination, limit))

    async def backlog(self, seq: int = 0) -> Backlog:
        """seq: without the posts before this number."""
        return await self._thread.ask(lambda post_log: post_log.backlog(self._sink, seq))

    async def find(self, received: int) -> int:
        return await self._thread.ask(lambda post_log: steering.find(post_log, received))

    async def plan(self, seq: int) -> Move:
        return await self._thread.ask(lambda post_log: steering.plan(post_log, self._sink, seq))

    async def move(self, to: Cursor) -> None:
        await self._thread.change(lambda post_log: steering.move(post_log, self._sink, to))
