"""Appends posts to a journal in Kafka: those of one turn of the event loop together, and without a task for each."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from btfeed.posts.post import Post, digests
from sinks.shared.clock import Clock


class _New(NamedTuple):
    """A post that is to be appended. began: by the clock's monotonic time."""

    post: Post
    outcome: "asyncio.Future[bytes]"
    began: float


class Ways(Protocol):
    """How an intake makes a post durable. digest: that of the post's body."""

    def send(self, post: Post, digest: bytes) -> "asyncio.Future[None] | None":
        """Send it, as most are, and return the outcome. None if it was not sent, and there is more to do."""

    def sent(self) -> None:
        """The outcome of `send` was good."""

    async def keep(self, post: Post, digest: bytes, sending: "asyncio.Future[None] | None") -> None:
        """Do what is to be done otherwise. sending: the outcome of `send`. Raises JournalError."""


class Appending:
    """Needs a running event loop. observe: called with the seconds that each took."""

    def __init__(self, ways: Ways, observe: Callable[[float], None], clock: Clock) -> None:
        self._ways = ways
        self._observe = observe
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._new: list[_New] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = 0  # how many have no outcome yet
        self._idle = asyncio.Event()
        self._idle.set()

    def append(self, post: Post) -> "asyncio.Future[bytes]":
        """See btfeed.journal.base.Intake."""
        outcome: asyncio.Future[bytes] = self._loop.create_future()
        if not self._new:
            self._loop.call_soon(self._begin)
        self._new.append(_New(post, outcome, self._clock.monotonic()))
        self._left += 1
        self._idle.clear()
        return outcome

    async def idle(self) -> None:
        """Return when all posts so far have an outcome."""
        await self._idle.wait()

    def _begin(self) -> None:
        new, self._new = self._new, []
        for each, digest in zip(new, digests([each.post.body for each in new]), strict=True):
            try:
                sending = self._ways.send(each.post, digest)
            except Exception as error:  # noqa: BLE001 - a bug must not leave a post without an outcome
                self._end(each, error)
                continue
            if sending:
                sending.add_done_callback(partial(self._sent, each, digest))
            else:
                self._start_task(each, digest, None)

    def _sent(self, new: _New, digest: bytes, sending: "asyncio.Future[None]") -> None:
        if sending.exception():
            self._start_task(new, digest, sending)
        else:
            self._ways.sent()
            self._end(new, digest)

    def _start_task(self, new: _New, digest: bytes, sending: "asyncio.Future[None] | None") -> None:
        task = self._loop.create_task(self._keep(new, digest, sending))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, new: _New, digest: bytes, sending: "asyncio.Future[None] | None") -> None:
        try:
            await self._ways.keep(new.post, digest, sending)
        except Exception as error:  # noqa: BLE001 - it becomes the outcome
            self._end(new, error)
        else:
            self._end(new, digest)

    def _end(self, new: _New, outcome: bytes | Exception) -> None:
        if new.outcome.done():  # the caller was cancelled
            pass
        elif isinstance(outcome, Exception):
            new.outcome.set_exception(outcome)
        else:
            self._observe(self._clock.monotonic() - new.began)
            new.outcome.set_result(outcome)
        self._left -= 1
        if not self._left:
            self._idle.set()
