"""Runs a server until it is asked to stop, and reloads its configuration when it is asked to."""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Sequence
from types import MappingProxyType

import structlog

from btfeed.app.allocator import keep_freed_memory
from btfeed.app.reload import Reloader
from btfeed.app.roles import SERVE, Role
from btfeed.app.server import GRACE, Server
from btfeed.config import Config
from btfeed.inherited import Sockets
from btfeed.signals import HangUps, stop_on_signals

log = structlog.get_logger()

SWITCH_INTERVAL = 0.001
"""Seconds that a mapping thread may hold Python's lock before the receiver gets its turn. The interpreter's default of 5 ms
would delay each post, which takes several turns."""
GARBAGE_THRESHOLD = 10_000
"""Objects after which the interpreter looks for cycles among the new ones. Posts that wait for their batch are thousands of
objects and no cycles: at the default of 700, looking takes a fifth of the CPU of small posts."""


async def serve(
    config: Config,
    stop: asyncio.Event | None = None,
    grace: float = GRACE,
    *,
    role: Role = SERVE,
    sockets: Sockets = MappingProxyType({}),
    load: Callable[[], Config] | None = None,
    hang_ups: HangUps | None = None,
) -> None:
    """Run until `stop` is set, or SIGTERM or SIGINT arrives. Raises JournalError, OSError or ssl.SSLError at start.

    role, sockets
              see Server
    load      loads the configuration again; raises ConfigError. Without it, a reload takes over files, such as certificates
    hang_ups  ask for a reload; those that came before the server has started count

    Whatever is decided here at start, `check` finds out beforehand, with the same code.
    """
    stop = stop or stop_on_signals()
    sys.setswitchinterval(SWITCH_INTERVAL)
    keep_freed_memory()
    server = Server(config, grace, sockets, role)
    reloader = Reloader(server, load or (lambda: config), server.notifier.during_reload)
    try:
        await server.start()
        gc.freeze()  # what was made until now stays, and need not be looked at again
        gc.set_threshold(GARBAGE_THRESHOLD)
        await _first([stop.wait(), server.failed(), server.orphaned(), _reload(reloader, hang_ups or HangUps())])
        log.info("stopping")
    finally:
        await server.stop()
    log.info("stopped")


async def _first(waits: Sequence[Coroutine[None, None, object]]) -> None:
    """Return when the first of them returns, or raise its error. If a delivery fails, stopping is better than taking posts
    that one sink will not get."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in done:
        task.result()


async def _reload(reloader: Reloader, hang_ups: HangUps) -> None:
    """Reload at each SIGHUP. Returns when the terminal was closed that the server was started in."""
    while True:
        await hang_ups.wait()
        if hang_ups.terminal_closed:
            return
        await reloader.reload()
