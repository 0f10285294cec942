"""The whole chain, joined in one place.

    AppMon -> Receiver -> Journal -> Batcher -> MappedPosts (Mapper) -> Delivery -> sink

The receiver takes posts as long as possible, since AppMon sends none twice. So a stop begins at the far end: first the
deliveries, which have `grace` seconds to finish their writes and save their cursors, then the receiver, which finishes its
requests, then the mapping threads, the admin listener and the journal. What was not delivered is delivered after the next
start.
"""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from importlib.metadata import version
from types import MappingProxyType

import structlog

from btfeed import native
from btfeed.admin.parts import Parts
from btfeed.admin.server import Admin
from btfeed.app.advice import log_advice
from btfeed.app.certificates import show_validity
from btfeed.app.deliveries import Deliveries
from btfeed.app.instruments import create_instruments
from btfeed.app.listeners import check_addresses, close, open_listeners
from btfeed.app.notifier import Notifier
from btfeed.app.parts import create_delivery, create_sink
from btfeed.app.shown import ShownConfig, newest
from btfeed.app.sink_control import SinkControl
from btfeed.config import Config
from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.inherited import ADMIN, RECEIVER, Sockets
from btfeed.journal import create as journals
from btfeed.journal.base import JournalInUse, Outlet
from btfeed.records.mapper import create_mapper
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus
from btfeed.telemetry.tap import Taps

log = structlog.get_logger()

GRACE = 10.0
"""Seconds that a sink has to finish its writes when it stops."""


class Server:
    """The parts of one server, from `start` to `stop`. Make it inside the running event loop. Raises MissingPackages.

    sockets   those of open_listeners(config), if it was called before. The server closes them
    config    what it runs with now
    notifier  tells the service manager
    stopping  whether `stop` was called
    changing  held by whatever changes the server while it runs: a reload, or an operator
    """

    def __init__(self, config: Config, grace: float = GRACE, sockets: Sockets = MappingProxyType({})) -> None:
        self.config = config
        self._sockets = sockets
        self.notifier = Notifier()
        self.stopping = False
        self.changing = asyncio.Lock()
        self.metrics = Metrics()
        self.instruments = create_instruments(config.opentelemetry, self.metrics)
        self.journal = journals.create(config.journal, starts(config), self.metrics, config.receiver.max_occurrences)
        mapper = create_mapper(config.record, config.validation)
        self.mapped_posts = MappedPosts(mapper, self.metrics, len(config.sinks))
        self.taps = Taps(self.metrics)
        self.deliveries = Deliveries(self.journal.outlets, self._create_delivery, grace)
        self.control = SinkControl(self.journal, self.deliveries, self.metrics, self._type_of, self.changing)
        self.receiver = self.instruments.receiver(config.receiver, self.journal, self.metrics)
        self.admin = Admin(config.admin, self._parts())
        self._started = AsyncExitStack()  # what is entered last is left first

    async def start(self) -> None:
        """Start everything, or nothing if something can't start. Raises JournalError, OSError or ssl.SSLError."""
        async with AsyncExitStack() as stack:
            stack.callback(close, self._sockets)
            await check_addresses(self.config)
            if self.notifier.takes_over:
                await self._check_parts()
                await self.notifier.take_over()  # what follows is what only one server can have
            stack.push_async_callback(self.instruments.stop)
            await self.journal.open()
            stack.push_async_callback(self.journal.close)
            sockets = self._sockets or await open_listeners(self.config)
            stack.callback(close, sockets)
            stack.callback(asyncio.create_task(self.notifier.keep_alive(self.journal.answer)).cancel)
            admin_host, admin_port = await self.admin.start(sockets[ADMIN])
            stack.push_async_callback(self.admin.stop)
            stack.callback(self.mapped_posts.close)
            host, port = await self.receiver.start(sockets[RECEIVER])
            stack.push_async_callback(self.receiver.stop)
            await self.control.load()
            for name in self.config.sinks:
                self.deliveries.start_sink(name)
            stack.push_async_callback(self.deliveries.stop)
            self.instruments.start(self.admin.figures.update)
            self._started = stack.pop_all()
        show_validity(self.config, self.metrics)
        admin = {"admin_host": admin_host, "admin_port": admin_port}
        log.info("listening", host=host, port=port, **admin, version=version("btfeed"), mapping=native.PATH)
        self.notifier.ready(f"listening on {host}:{port}")
        await log_advice(self.config)

    async def _check_parts(self) -> None:
        """Raise what would raise later, when the old server has stopped."""
        for _, _, attempt in journals.checks(self.config.journal):
            with suppress(JournalInUse):
                await attempt
        if self.config.receiver.tls:
            await asyncio.to_thread(self.config.receiver.tls.context)
        for name, sink in self.config.sinks.items():
            await create_sink(name, sink).close()

    async def failed(self) -> None:
        """Raise the error of the first delivery that fails. Does not return."""
        await self.deliveries.failed()

    async def orphaned(self) -> None:
        """Return when the supervisor is gone, which alone could restart or reload this server."""
        await self.notifier.orphaned(lambda reason: self.metrics.count_failed_restart(round(time.time() * 1000), reason))
        log.error("the supervisor is gone, stopping", hint="start btfeed again; this server frees its ports")

    async def stop(self) -> None:
        """Stop everything. /readyz says so at once; posts are taken until the deliveries have stopped."""
        self.stopping = True
        self.notifier.stopping()
        await self._started.aclose()
        self.notifier.released()

    def _parts(self) -> Parts:
        shown = ShownConfig()
        return Parts(
            journal=self.deliveries,
            kept=self.journal.kept,
            why_not_ready=self._why_not_ready,
            sinks=self.deliveries.statuses,
            control=self.control,
            taps=self.taps,
            metrics=self.metrics,
            version=version("btfeed"),
            configuration=lambda: shown.of(self.config),
            dead_letters=lambda: journals.dead_letters(self.config.journal),
            wants=lambda: {name: sink.common.filter.accepts for name, sink in self.config.sinks.items()},
            newest=lambda: newest(self.deliveries, self.mapped_posts),
        )

    def _why_not_ready(self) -> str | None:
        return "shutting down" if self.stopping else self.journal.refusing

    def _type_of(self, sink: str) -> str:
        found = self.config.sinks.get(sink)  # None while a reload removes it
        return found.common.type if found else "unknown"

    def _create_delivery(self, name: str, outlet: Outlet, status: SinkStatus) -> Delivery:
        return create_delivery(
            name,
            self.config.sinks[name],
            outlet,
            self.mapped_posts,
            self.metrics,
            status,
            self.taps,
            self.instruments.sink,
        )


def starts(config: Config) -> dict[str, str]:
    """Where each sink begins if it is new: "oldest" or "latest" post."""
    return {name: sink.common.start for name, sink in config.sinks.items()}
