"""The journal's thread: takes jobs from the event loop in groups, and sends back outcomes and a snapshot.

The jobs of one turn of the event loop are handed over together, since to wake a thread costs more than to append a post.
Posts go to a native thread if there is one (btfeed/journal/sqlite/appender.py), and only those that it can't append come
to this one. A job's future is resolved after its transaction was committed, in the same callback that updates the snapshot:
code that awaits an outcome also sees the state that goes with it.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import apsw

from btfeed.journal.base import JournalUnavailable
from btfeed.journal.sqlite import appender
from btfeed.journal.sqlite.appender import Appended, Appender, Group
from btfeed.journal.sqlite.positions import EMPTY, Snapshot
from btfeed.journal.sqlite.post_log import PostLog
from btfeed.journal.sqlite.settings import Tuning
from btfeed.journal.sqlite.worker import JournalWorker, Work
from btfeed.posts.post import Post

T = TypeVar("T")

GROUP_BYTES = 32 * 2**20
"""Bytes of bodies after which a group of jobs is complete."""
GROUP_JOBS = 1_000


class _Job(NamedTuple):
    """writes: whether it belongs in the group's transaction. failed: why it could not be done without Python."""

    future: "asyncio.Future[Any]"
    work: Work
    writes: bool
    failed: apsw.Error | None = None


class JournalThread:
    """Runs a worker on a thread of its own. `snapshot` is the journal's state as of the last outcome.

    create: makes the worker; its arguments are what the worker calls to report its state at once, and to ask whether the
    journal is to close. on_appended: called with each group of posts that was appended without the worker.
    """

    def __init__(
        self,
        create: Callable[[Callable[[], None], Callable[[], bool]], JournalWorker],
        tuning: Tuning,
        on_appended: Callable[[Appended], None],
    ) -> None:
        self.snapshot: Snapshot = EMPTY
        self._worker = create(self._publish, lambda: self._stopping)
        self._tuning = tuning
        self._on_appended = on_appended
        self._appender: Appender | None = None
        self._posts: list[Post] = []  # for the appender, in this turn of the loop
        self._appending: list[asyncio.Future[bytes]] = []  # their outcomes
        self._given: list[_Job] = []  # in this turn of the loop
        self._jobs: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._stopping = False
        self._grown: asyncio.Event | None = None  # if somebody waits for it

    # On the event loop

    async def start(self) -> None:
        """Start, and open the journal. Raises what opening it raised. If that fails or is cancelled, it is closed again."""
        if appender.available():
            self._appender = Appender(self._done, self._tuning.gather)
        self._thread.start()
        try:
            await asyncio.shield(self._opened)
        except BaseException:
            await self.stop()
            raise

    def submit(self, post: Post) -> "asyncio.Future[bytes]":
        """Append a post; the outcome is its digest, or a JournalError."""
        if self.snapshot.broken:  # the thread may be busy recovering: don't wait for it
            return self._failed(self.snapshot.broken)
        if self._appender is None or self._stopping:
            return self._submit(post, writes=True)
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._will_hand_over()
        self._posts.append(post)
        self._appending.append(future)
        if len(self._posts) >= GROUP_JOBS:
            self._hand_over()
        return future

    def change(self, work: Callable[[PostLog], None]) -> "asyncio.Future[None]":
        """Do `work` in a transaction; the outcome may be a JournalError."""
        return self._submit(work, writes=True)

    def ask(self, question: Callable[[PostLog], T]) -> "asyncio.Future[T]":
        """The answer to `question`, or a JournalError."""
        return self._submit(question, writes=False)

    async def wait(self, seq: int) -> None:
        """Return when there is a post numbered `seq` or higher."""
        while self.snapshot.head <= seq:
            self._grown = self._grown or asyncio.Event()
            await self._grown.wait()

    async def stop(self) -> None:
        """Do all jobs submitted so far, and end the thread. The outcome of later ones is JournalUnavailable."""
        self._stopping = True
        if self._thread.is_alive():
            self._hand_over()
            if self._appender:
                await self._appender.idle()
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
        if self._appender:
            self._appender.close()
            self._appender = None

    def _submit(self, work: Work, writes: bool) -> "asyncio.Future[Any]":
        if self._stopping:
            return self._failed("the journal is closed")
        future = self._loop.create_future()
        self._will_hand_over()
        self._given.append(_Job(future, work, writes))
        if len(self._given) >= GROUP_JOBS:
            self._hand_over()
        return future

    def _failed(self, reason: str) -> "asyncio.Future[Any]":
        future = self._loop.create_future()
        future.set_exception(JournalUnavailable(reason))
        return future

    def _will_hand_over(self) -> None:
        if not self._given and not self._posts:
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        if self._posts:
            assert self._appender
            self._appender.append(self._posts, self._appending)
            self._posts, self._appending = [], []
        if self._given:
            self._jobs.put(self._given)
            self._given = []

    def _done(self, group: Group, outcome: Appended | apsw.Error | None) -> None:
        """The appender is done with these."""
        if isinstance(outcome, Appended):
            self._on_appended(outcome)
            end = outcome.entries[-1].seq + 1
            if end > self.snapshot.next:
                self._update(self.snapshot._replace(head=end, next=end))
            _settle(group.futures, [entry.digest for entry in outcome.entries])
        else:
            again = zip(group.futures, group.posts, strict=True)
            self._jobs.put([_Job(future, post, True, outcome) for future, post in again])

    def _resolve(self, jobs: Sequence[_Job], outcomes: Sequence[Any], snapshot: Snapshot) -> None:
        known = self.snapshot
        if known.next > snapshot.next:  # the appender went on before this came here
            snapshot = snapshot._replace(head=known.head, next=known.next)
        self._update(snapshot)
        _settle([job.future for job in jobs], outcomes)

    def _update(self, snapshot: Snapshot) -> None:
        grown, self.snapshot = snapshot.head > self.snapshot.head, snapshot
        if grown and self._grown:
            self._grown.set()
            self._grown = None

    # On the journal's thread

    def _run(self) -> None:
        worker = self._worker
        try:
            worker.open()
        except Exception as error:  # noqa: BLE001 - raised by `start`
            self._loop.call_soon_threadsafe(self._opened.set_exception, error)
            return
        next_tick = self._tick()  # before anybody asks whether posts would be refused
        self._loop.call_soon_threadsafe(self._opened.set_result, None)
        stopping = False
        while not stopping:
            jobs, stopping = self._collect(next_tick)
            if self._appender:
                worker.reclaim(self._appender)
            writes = [job for job in jobs if job.writes]
            if writes:
                failed = next((job.failed for job in writes if job.failed), None)
                self._publish(writes, worker.write([job.work for job in writes], failed))
            for job in jobs:
                if not job.writes and not isinstance(job.work, Post):
                    self._publish([job], [worker.ask(job.work)])
            if time.monotonic() >= next_tick:
                next_tick = self._tick()
            if self._appender and not stopping:
                worker.lend(self._appender)
        worker.close()

    def _tick(self) -> float:
        """Do what is due now and then. Returns when that is due again."""
        more = self._worker.tick()
        self._publish()
        return time.monotonic() + (0.0 if more else self._tuning.tick)

    def _collect(self, next_tick: float) -> tuple[list[_Job], bool]:
        """Wait for a job, at most until the next tick, then take all that are waiting. True: the thread is to stop."""
        jobs: list[_Job] = []
        size = 0
        try:
            given = self._jobs.get(timeout=max(0.0, next_tick - time.monotonic()))
            while given is not None:
                jobs += given
                size += sum(len(job.work.body) for job in given if isinstance(job.work, Post))
                if size > GROUP_BYTES or len(jobs) >= GROUP_JOBS:
                    return jobs, False
                given = self._jobs.get_nowait()
        except queue.Empty:
            return jobs, False
        return jobs, True

    def _publish(self, jobs: Sequence[_Job] = (), outcomes: Sequence[Any] = ()) -> None:
        """Send outcomes and the current snapshot to the event loop."""
        self._loop.call_soon_threadsafe(self._resolve, jobs, outcomes, self._worker.snapshot())


def _settle(futures: "Sequence[asyncio.Future[Any]]", outcomes: Sequence[Any]) -> None:
    for future, outcome in zip(futures, outcomes, strict=True):
        if future.done():  # the caller was cancelled
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
