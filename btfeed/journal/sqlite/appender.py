"""Appends posts without Python, on a native thread (native/appender): it is what most posts need of the journal.

The journal's thread owns the connection. It lends the connection to the native thread, and takes it back whenever it has
work of its own: commits of sinks, questions, maintenance. What the native thread can't do it gives back: posts for which
there may be no room, and those whose transaction failed, with the reason. So every decision stays with the worker.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from typing import NamedTuple, cast

import apsw
import structlog

from btfeed import native
from btfeed.journal.base import Entry
from btfeed.journal.sqlite.layout import bytes_taken
from btfeed.posts.post import Post

log = structlog.get_logger()

_SIGNALS = 4096
"""Bytes that are read from the pipe at a time. There is rarely more than one."""


class Appended(NamedTuple):
    """A group of posts that is durable. seconds: of its transaction, in the first group of it."""

    entries: list[Entry]
    seconds: float | None


class Group(NamedTuple):
    """Posts, and the future of each."""

    posts: Sequence[Post]
    futures: "Sequence[asyncio.Future[bytes]]"


class Appender:
    """`done` is called on the event loop for each group, with Appended; else with the error of its transaction, or None if
    it was not tried."""

    def __init__(self, done: Callable[[Group, Appended | apsw.Error | None], None], gather: float) -> None:
        """Needs a running event loop, and `available`. gather: see Tuning."""
        self._done = done
        self._given: deque[Group] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self._signals, signal = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        assert native.module
        self._thread = native.module.Appender(signal, gather)  # which closes the pipe
        self._loop.add_reader(self._signals, self._read)

    # On the event loop

    def append(self, posts: Sequence[Post], futures: "Sequence[asyncio.Future[bytes]]") -> None:
        """Append the posts. It leaves the futures to `done`."""
        self._given.append(Group(posts, futures))
        self._idle.clear()
        self._thread.append([(post.body, post.received, post.peer, bytes_taken(post)) for post in posts])

    async def idle(self) -> None:
        """Return when `done` was called for all groups so far."""
        await self._idle.wait()

    def _read(self) -> None:
        """Call `done` for what is done."""
        os.read(self._signals, _SIGNALS)
        for appended, failed in self._thread.take():
            group = self._given.popleft()
            if appended:
                first, digests, seconds = appended
                self._done(group, Appended([*map(Entry, count(first), group.posts, digests)], seconds))
            else:
                self._done(group, _error(*failed) if failed else None)
        if not self._given:
            self._idle.set()

    def close(self) -> None:
        """End the thread. The connection is not lent."""
        self._thread.end()
        self._loop.remove_reader(self._signals)
        os.close(self._signals)

    # On the journal's thread

    def lend(self, db: apsw.Connection, next_seq: int, room: int, slack: int) -> None:
        """Let it append posts from number `next_seq` on, that take `room` bytes at most, with `slack` for each transaction.
        Nobody may use or close the connection until `reclaim`."""
        self._thread.lend(db.sqlite3_pointer(), next_seq, room, slack)

    def reclaim(self) -> tuple[int, int] | None:
        """Take the connection back, after the transaction that is under way. Posts wait until `lend` or `refuse`. Returns
        the number of the next post and the room that is left, or None if nothing was lent."""
        found: tuple[int, int] | None = self._thread.reclaim()
        return found

    def refuse(self) -> None:
        """Give posts back from now on, also those that wait."""
        self._thread.refuse()


def _error(code: int, message: str) -> apsw.Error:
    """What apsw would raise."""
    error = cast("apsw.Error", apsw.exception_for(code))
    error.args = (message,)
    return error


@cache
def available() -> bool:
    """Whether the native thread can use the connections of apsw: it is given the functions of apsw's SQLite."""
    if native.module is None:
        return False
    try:
        db = apsw.Connection(":memory:")
        db.enable_load_extension(True)
        db.load_extension(str(native.module.__file__), "btfeed_sqlite_init")
        db.close()
    except (AttributeError, apsw.Error) as error:  # a distribution may have built SQLite without extensions
        log.debug("posts are appended by Python", reason=str(error))
        return False
    return True
