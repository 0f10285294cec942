"""Runs a server until it is asked to stop."""

import asyncio
import sys

import structlog

from btfeed.app.server import GRACE, Server
from btfeed.config import Config
from btfeed.signals import stop_on_signals

log = structlog.get_logger()

SWITCH_INTERVAL = 0.001
"""Seconds that a mapping thread may hold Python's lock before the receiver gets its turn. The interpreter's default of 5 ms
would delay each post, which takes several turns."""


async def serve(config: Config, stop: asyncio.Event | None = None, grace: float = GRACE) -> None:
    """Run until `stop` is set, or SIGTERM or SIGINT arrives. Raises JournalError, OSError or ssl.SSLError at start.

    Whatever is decided here at start, `check` finds out beforehand, with the same code.
    """
    stop = stop or stop_on_signals()
    sys.setswitchinterval(SWITCH_INTERVAL)
    server = Server(config, grace)
    try:
        await server.start()
        await _until(stop, server)
        log.info("stopping")
    finally:
        await server.stop()
    log.info("stopped")


async def _until(stop: asyncio.Event, server: Server) -> None:
    """Wait for `stop`. If a delivery fails, raise its error: stopping is better than taking posts that one sink will not
    get."""
    waiting = [asyncio.create_task(stop.wait()), asyncio.create_task(server.failed())]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    for task in done:
        task.result()
