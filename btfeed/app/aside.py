"""Runs in a thread what may hang for ever, such as reading a file on a network drive."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def aside(function: Callable[[], T]) -> T:
    """What `function` returns or raises. Unlike asyncio.to_thread, the end of the process does not wait for it."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def tell(how: Callable[[Any], None], what: object) -> None:
        if not result.done():  # nobody waits any more
            how(what)

    def run() -> None:
        outcome: tuple[Callable[[Any], None], object]
        try:
            outcome = result.set_result, function()
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            outcome = result.set_exception, error
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(tell, *outcome)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return await result
