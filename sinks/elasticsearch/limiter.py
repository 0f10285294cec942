"""How many writes may be under way at once: half as many when the far end pushes back, one more after each good round."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Limiter:
    """`async with limiter.place()` waits until there is one. There is no limit until somebody calls `less`.

    Additive increase, multiplicative decrease: after `less`, each write that ends well adds its share of one, so that a
    round of as many writes as there are places adds a place. Nothing is added while there is room anyway.
    """

    def __init__(self) -> None:
        self.limit = math.inf
        self.under_way = 0
        self._room = asyncio.Event()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        while self._full():
            self._room.clear()
            await self._room.wait()
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
            self._room.set()

    def less(self) -> None:
        """A write of those under way was pushed back."""
        self.limit = max(1.0, min(self.limit, self.under_way) / 2)

    def more(self) -> None:
        """A write of those under way ended well."""
        if self._full():
            self.limit += 1 / self.limit
            self._room.set()

    def _full(self) -> bool:
        return self.under_way + 1 > self.limit
