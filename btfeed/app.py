"""The whole chain, joined in one place.

    AppMon -> Receiver -> SqliteJournal -> Batcher -> Feed (Mapper) -> Delivery -> sink

It is started from the far end, so that nothing is taken before somebody is there to pass it on, and stopped from the near
end: the receiver first, which finishes the requests under way; then the deliveries, which finish their writes within
GRACE and save their cursors; then the admin listener and the journal. What a delivery could not finish comes again at the
next start.
"""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterable
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path

import structlog

from btfeed.admin import Admin
from btfeed.config import Config, SinkConfig
from btfeed.delivery import Delivery
from btfeed.feed import Feed
from btfeed.journal.sqlite import SqliteJournal
from btfeed.mapping import Mapper
from btfeed.metrics import Metrics
from btfeed.receiver import Receiver
from btfeed.schema import MAPS, RECORD_FIELDS
from sinks.base import Sink, SinkContext, SinkError

log = structlog.get_logger()

GRACE = 10.0
"""Seconds that sinks have to finish the writes under way when the server stops."""
SWITCH_INTERVAL = 0.001
"""Seconds that mapping may hold Python's lock before the receiver gets its turn; the interpreter's own are 5 ms, and a
post waits for several turns."""


def create_sink(name: str, config: SinkConfig) -> Sink:
    return config.type.create(config.settings, SinkContext(name, RECORD_FIELDS, MAPS))


async def serve(config: Config, stop: asyncio.Event | None = None) -> None:
    """Run until `stop` is set, or SIGTERM or SIGINT comes. Raises JournalError, OSError or ssl.SSLError at start."""
    stop = stop or _stop_on_signals()
    sys.setswitchinterval(SWITCH_INTERVAL)
    metrics = Metrics()
    starts = {name: sink.common.start for name, sink in config.sinks.items()}
    journal = SqliteJournal(config.journal, starts, metrics, config.receiver.max_occurrences)
    feed = Feed(Mapper(config.record, config.validation), metrics)
    deliveries = [_delivery(name, sink, journal, feed, metrics) for name, sink in config.sinks.items()]
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


async def check(config: Config) -> dict[str, str | None]:
    """Try what `serve` would need, and change nothing: what -> why it fails, None where it does not."""
    found: dict[str, str | None] = {}
    try:
        if config.receiver.tls:
            config.receiver.tls.context()
            found["receiver.tls"] = None
    except OSError as error:
        found["receiver.tls"] = str(error)
    try:
        await asyncio.to_thread(_prove_writable, Path(config.journal.directory))
        found["journal.directory"] = None
    except OSError as error:
        found["journal.directory"] = str(error)
    for name, sink in config.sinks.items():
        created = create_sink(name, sink)
        try:
            await created.check()
            found[f"sinks.{name}"] = None
        except SinkError as error:
            found[f"sinks.{name}"] = f"{type(error).__name__.lower()}: {error}"
        finally:
            await created.close()
    return found


def _prove_writable(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=directory).close()


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
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _delivery(name: str, sink: SinkConfig, journal: SqliteJournal, feed: Feed, metrics: Metrics) -> Delivery:
    common = sink.common
    return Delivery(name, create_sink(name, sink), sink.type.serial, common.delivery, common.filter, journal, feed, metrics)
