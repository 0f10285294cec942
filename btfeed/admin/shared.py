"""Answers that several requests share: one that is made, or was made a moment ago, is given to all who ask for the same."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from sinks.shared.clock import Clock

SHARED = 1.0
"""Seconds for which an answer is given to others, after it was made."""
MAX_SHARED = 8
"""Answers that are kept at the same time. What is asked for beyond them is made for each request."""

Key = TypeVar("Key", bound=Hashable)


class Shared(Generic[Key]):
    """make: makes the answer for a key. Whoever has the key gets the answer: it must say what its reader may see."""

    def __init__(self, make: Callable[[Key], Awaitable[bytes]], clock: Clock) -> None:
        self._make = make
        self._clock = clock
        self._answers: dict[Key, asyncio.Future[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, key: Key) -> bytes:
        """Raises what `make` raises, to all who wait for this answer. The next request makes another."""
        answer = self._answers.get(key)
        if answer is None:
            if len(self._answers) >= MAX_SHARED:
                return await self._make(key)
            answer = self._answers[key] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(self._run(key, answer), name="shared answer")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(answer)  # others may wait for it, too

    def forget(self) -> None:
        """Discard all answers, also those that are being made: the next request makes a new one."""
        self._answers.clear()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _run(self, key: Key, answer: asyncio.Future[bytes]) -> None:
        try:
            answer.set_result(await self._make(key))
            await self._clock.sleep(SHARED)
        except Exception as error:  # noqa: BLE001 - it is theirs who wait
            answer.set_exception(error)
        finally:
            answer.cancel()  # if it is closed before it is made
            if self._answers.get(key) is answer:
                del self._answers[key]
