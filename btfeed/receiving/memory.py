"""What keeps posts within bounds: room for bodies, an end for gzip."""

import asyncio
import zlib
from collections import deque
from collections.abc import Iterator
from typing import Self

from btfeed.telemetry.metrics import Metrics


class Overloaded(Exception):
    """No room came free in time."""


class Budget:
    """Bytes that posts may occupy while they are received, given out in the order of asking."""

    SMALL = 2**16
    """A body needs no room until so much of it has come: a sender that promises much and sends little takes none."""

    def __init__(self, total: int, patience: float, metrics: Metrics) -> None:
        self._total = total
        self._free = total
        self._patience = patience
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._gauge = metrics.bytes_in_flight

    def room(self, size: int) -> "Room":
        """Room for a post of up to `size` bytes, to be taken when needed."""
        return Room(self, min(size, self._total))

    async def take(self, size: int) -> None:
        """Raises Overloaded where `size` bytes are not to be had in time."""
        if not self._waiting and size <= self._free:
            self._free -= size
            self._gauge.set(self._total - self._free)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._hand_out()
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except BaseException as error:
            if turn.cancelled():
                self._hand_out()  # who stands behind may need less
            else:
                self.give_back(size)
            if isinstance(error, TimeoutError):
                raise Overloaded from None
            raise

    def give_back(self, size: int) -> None:
        self._free += size
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= size
                turn.set_result(None)
        self._gauge.set(self._total - self._free)


class Room:
    """What one post may take from a budget, and gives back at the end of a `with`."""

    def __init__(self, budget: Budget, size: int) -> None:
        self.size = size
        self.taken = False
        self._budget = budget

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.taken:
            self._budget.give_back(self.size)

    async def cover(self, used: int) -> None:
        """Wait until there is room for a post of which `used` bytes are here. Raises Overloaded."""
        if used > Budget.SMALL and not self.taken:
            await self._budget.take(self.size)
            self.taken = True


class TooLong(Exception):
    """What was decompressed is longer than the limit."""


class Gunzip:
    """Decompresses one gzip stream of up to MEMBERS members, up to `limit` bytes."""

    STEP = 2**18
    MEMBERS = 1_000
    """Real streams have few; a post full of empty ones would take minutes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._member = zlib.decompressobj(wbits=31)
        self._members = 0
        self._plain = bytearray()
        self._error: zlib.error | None = None

    def feed(self, data: bytes) -> Iterator[int]:
        """Decompress `data` step by step; yields how long the whole is so far. Raises TooLong. What is broken shows at
        the end."""
        while data and not self._error:
            try:
                if self._member.eof or not self._members:
                    self._begin()
                self._plain += self._member.decompress(data, min(self.STEP, self._limit - len(self._plain) + 1))
            except zlib.error as error:
                self._error = error
                return
            if len(self._plain) > self._limit:
                raise TooLong
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            yield len(self._plain)

    def end(self) -> bytes:
        """The whole. Raises zlib.error where the stream is broken or cut off."""
        if self._error:
            raise self._error
        if self._members and not self._member.eof:
            raise zlib.error("the stream ends early")
        return bytes(self._plain)

    def _begin(self) -> None:
        self._members += 1
        if self._members > self.MEMBERS:
            raise zlib.error(f"more than {self.MEMBERS} members")
        self._member = zlib.decompressobj(wbits=31)
