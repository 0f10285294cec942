"""The whole chain, joined in one place.

    AppMon -> Receiver -> Journal -> Batcher -> MappedPosts (Mapper) -> Delivery -> sink

It starts from the far end, so that no post is taken before there is something to pass it on, and stops from the near end:
first the receiver, which finishes its requests; then the deliveries, which have GRACE seconds to finish their writes and
save their cursors; then the mapping threads, the admin listener and the journal. What a delivery did not finish is
delivered after the next start.
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from importlib.metadata import version

import structlog

from btfeed.admin.server import Admin
from btfeed.app.advice import advice
from btfeed.app.deliveries import Deliveries
from btfeed.app.parts import check_addresses, create_delivery
from btfeed.config import Config
from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.journal import create as journals
from btfeed.journal.base import Journal, Outlet
from btfeed.receiving.receiver import Receiver
from btfeed.records.mapper import create_mapper
from btfeed.signals import stop_on_signals
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus

log = structlog.get_logger()

GRACE = 10.0
"""Seconds that sinks have to finish their writes when the server stops."""
SWITCH_INTERVAL = 0.001
"""Seconds that a mapping thread may hold Python's lock before the receiver gets its turn. The interpreter's default of 5 ms
would delay each post, which takes several turns."""


async def serve(config: Config, stop: asyncio.Event | None = None, grace: float = GRACE) -> None:
    """Run until `stop` is set, or SIGTERM or SIGINT arrives. Raises JournalError, OSError or ssl.SSLError at start.

    Whatever is decided here at start, `check` finds out beforehand, with the same code.
    """
    stop = stop or stop_on_signals()
    sys.setswitchinterval(SWITCH_INTERVAL)
    metrics = Metrics()
    starts = {name: sink.common.start for name, sink in config.sinks.items()}
    journal = journals.create(config.journal, starts, metrics, config.receiver.max_occurrences)
    mapped_posts = MappedPosts(create_mapper(config.record, config.validation), metrics, len(config.sinks))
    deliveries = _deliveries(config, journal, mapped_posts, metrics, grace)
    receiver = Receiver(config.receiver, journal, metrics)
    admin = Admin(
        config.admin,
        deliveries,
        journal.kept,
        lambda: "shutting down" if receiver.stopping else journal.refusing,
        deliveries.statuses,
        metrics,
        version("btfeed"),
    )
    await check_addresses(config)
    async with AsyncExitStack() as stack:  # what is entered last is left first
        await journal.open()
        stack.push_async_callback(journal.close)
        admin_host, admin_port = await admin.start()
        stack.push_async_callback(admin.stop)
        stack.callback(mapped_posts.close)
        deliveries.start()
        stack.push_async_callback(deliveries.stop)
        host, port = await receiver.start()
        stack.push_async_callback(receiver.stop)
        log.info("listening", host=host, port=port, admin_host=admin_host, admin_port=admin_port)
        async for item in advice(config):
            log.warning(item.event, setting=item.path, hint=item.hint)
        await _until(stop, deliveries)
        log.info("stopping")
    log.info("stopped")


def _deliveries(config: Config, journal: Journal, mapped_posts: MappedPosts, metrics: Metrics, grace: float) -> Deliveries:
    def create(name: str, outlet: Outlet, status: SinkStatus) -> Delivery:
        return create_delivery(name, config.sinks[name], outlet, mapped_posts, metrics, status)

    return Deliveries({name: journal.outlets(name) for name in config.sinks}, create, grace)


async def _until(stop: asyncio.Event, deliveries: Deliveries) -> None:
    """Wait for `stop`. If a delivery fails, raise its error: stopping is better than taking posts that one sink will not
    get."""
    waiting = [asyncio.create_task(stop.wait()), asyncio.create_task(deliveries.failed())]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    for task in done:
        task.result()
