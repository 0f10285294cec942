"""The whole chain, joined in one place.

    AppMon -> Receiver -> SqliteJournal -> Batcher -> MappedPosts (Mapper) -> Delivery -> sink

It is started from the far end, so that nothing is taken before somebody is there to pass it on, and stopped from the near
end: the receiver first, which finishes the requests under way; then the deliveries, which finish their writes within
GRACE and save their cursors; then the admin listener and the journal. What a delivery could not finish comes again at the
next start.
"""

import asyncio
import signal
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from importlib.metadata import version

import structlog

from btfeed.admin.server import Admin
from btfeed.app.parts import create_delivery
from btfeed.config import Config
from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.journal.sqlite.journal import SqliteJournal
from btfeed.receiving.receiver import Receiver
from btfeed.records.mapper import create_mapper
from btfeed.telemetry.metrics import Metrics

log = structlog.get_logger()

GRACE = 10.0
"""Seconds that sinks have to finish the writes under way when the server stops."""
SWITCH_INTERVAL = 0.001
"""Seconds that mapping may hold Python's lock before the receiver gets its turn; the interpreter's own are 5 ms, and a
post waits for several turns."""


async def serve(config: Config, stop: asyncio.Event | None = None) -> None:
    """Run until `stop` is set, or SIGTERM or SIGINT comes. Raises JournalError, OSError or ssl.SSLError at start."""
    stop = stop or _stop_on_signals()
    sys.setswitchinterval(SWITCH_INTERVAL)
    metrics = Metrics()
    starts = {name: sink.common.start for name, sink in config.sinks.items()}
    journal = SqliteJournal(config.journal, starts, metrics, config.receiver.max_occurrences)
    feed = MappedPosts(create_mapper(config.record, config.validation), metrics, len(config.sinks))
    deliveries = [create_delivery(name, sink, journal, feed, metrics) for name, sink in config.sinks.items()]
    receiver = Receiver(config.receiver, journal, metrics)
    admin = Admin(
        config.admin,
        journal,
        lambda: "shutting down" if receiver.stopping else journal.refusing,
        {delivery.name: delivery.status for delivery in deliveries},
        metrics,
        version("btfeed"),
    )
    async with AsyncExitStack() as stack:  # what is entered last is left first
        await journal.open()
        stack.push_async_callback(journal.close)
        admin_host, admin_port = await admin.start()
        stack.push_async_callback(admin.stop)
        stack.callback(feed.close)
        tasks = {delivery: asyncio.create_task(delivery.run()) for delivery in deliveries}
        stack.push_async_callback(_stop_deliveries, tasks)
        host, port = await receiver.start()
        stack.push_async_callback(receiver.stop)
        log.info("listening", host=host, port=port, admin_host=admin_host, admin_port=admin_port)
        if not deliveries:
            log.warning("no sinks are configured: posts are kept for their retention, and delivered to nobody")
        await _until(stop, tasks.values())
        log.info("stopping")
    log.info("stopped")


async def _until(stop: asyncio.Event, tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Wait for `stop`. A delivery that ends before that is a bug; better to stop and say so than to run without it."""
    waiting = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    for task in done - {waiting}:
        task.result()


async def _stop_deliveries(tasks: "dict[Delivery, asyncio.Task[None]]") -> None:
    for delivery in tasks:
        delivery.stop()
    if tasks:
        _, late = await asyncio.wait(tasks.values(), timeout=GRACE)
        for task in late:
            task.cancel()
        for delivery, ended in zip(tasks, await asyncio.gather(*tasks.values(), return_exceptions=True), strict=True):
            if isinstance(ended, Exception):
                log.error("a delivery ended with an error", sink=delivery.name, exc_info=ended)
            elif ended:
                log.warning("a write did not end in time; what it wrote may come again", sink=delivery.name, grace=GRACE)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
