"""An event loop on a thread of its own, for what is called without one, or may not block one."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from btfeed.journal.base import JournalUnavailable

T = TypeVar("T")


class LoopThread:
    """An event loop on a thread of its own. Use it in a `with` block."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="kafka", daemon=True)

    def __enter__(self) -> "LoopThread":
        self._thread.start()
        return self

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns, or raises."""
        return call(self.loop, coroutine)

    def __exit__(self, *_: object) -> None:
        self.call(_end_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _end_tasks() -> None:
    """What a library has left behind."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def call(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns or raises on a loop of another thread."""
    if loop.is_closed():
        coroutine.close()
        raise JournalUnavailable("the journal is closed")
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
