"""The whole chain, joined in one place.

    AppMon -> Receiver -> Journal -> Batcher -> MappedPosts (Mapper) -> Delivery -> sink

With a journal that several processes share, one of them may have only the part before the journal, or the one behind it:
its role says which (roles.py).

The receiver takes posts as long as possible, since AppMon sends none twice. So a stop begins at the far end: first the
deliveries, which have `grace` seconds to finish their writes and save their cursors, then the receiver, which finishes its
requests, then the mapping threads, the admin listener and the journal. What was not delivered is delivered after the next
start.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, AsyncExitStack, suppress
from functools import partial
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

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
from btfeed.app.roles import SERVE, Role
from btfeed.app.shown import ShownConfig, newest
from btfeed.app.sink_control import SinkControl
from btfeed.app.sink_objects import LeftPartitions, SinkObjects
from btfeed.config import Config
from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.sink_config import SinkConfig
from btfeed.inherited import ADMIN, RECEIVER, Sockets
from btfeed.journal import create as journals
from btfeed.journal.base import DeadLetters, JournalError, JournalInUse, Kept, Outlet
from btfeed.receiving.receiver import Receiver
from btfeed.records.mapper import create_mapper
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus
from btfeed.telemetry.tap import Taps
from sinks.base import SinkError
from sinks.batch import Batch

log = structlog.get_logger()

START_AGAIN = 0.5
"""Seconds after which the journal is asked again which sinks are paused."""
GRACE = 10.0
"""Seconds that a sink has to finish its writes when it stops."""


class Server:
    """The parts of one server, from `start` to `stop`. Make it inside the running event loop. Raises MissingPackages.

    sockets   those of open_listeners(config), if it was called before. The server closes them
    role      which parts it has
    config    what it runs with now, of what concerns its role
    receiver  None if it does not receive
    mapped_posts
              None if it does not deliver
    notifier  tells the service manager
    stopping  whether `stop` was called
    changing  held by whatever changes the server while it runs: a reload, or an operator
    """

    def __init__(
        self, config: Config, grace: float = GRACE, sockets: Sockets = MappingProxyType({}), role: Role = SERVE
    ) -> None:
        self.config = config
        self.role = role
        self._sockets = sockets
        self.notifier = Notifier()
        self.stopping = False
        self.changing = asyncio.Lock()
        self.metrics = Metrics()
        self.instruments = create_instruments(config.opentelemetry, self.metrics)
        self.journal = journals.create(
            config.journal, starts(config), self.metrics, config.receiver.max_occurrences,
            max_body=config.receiver.max_body, receives=role.receives, delivers=role.delivers, worker=role.worker,
        )  # fmt: skip
        self._identity = {"role": role.command, **journals.identity(config.journal)}
        self.mapped_posts: MappedPosts | None = None
        if role.delivers:
            self.mapped_posts = MappedPosts(create_mapper(config.record, config.validation), self.metrics)
        self.taps = Taps(self.metrics)
        self._objects = SinkObjects(
            journals.instance(config.journal),
            self.instruments.sink,
            partial(journals.transactional_id, config.journal),
        )
        self.deliveries = Deliveries(self.journal.outlets, self._create_delivery, grace)
        self.control = SinkControl(
            self.journal, self.deliveries, self.metrics, self._type_of, self.changing,
            shared=journals.halves(config.journal),
        )  # fmt: skip
        self.receiver: Receiver | None = None
        if role.receives:
            self.receiver = self.instruments.receiver(config.receiver, self.journal, self.metrics)
        self.admin = Admin(config.admin, self._parts())
        self._started = AsyncExitStack()  # what is entered last is left first

    async def start(self) -> None:
        """Start everything, or nothing if something can't start. Raises JournalError, OSError or ssl.SSLError."""
        async with AsyncExitStack() as stack:
            stack.callback(close, self._sockets)
            await check_addresses(self.config, self.role.receives)
            if self.notifier.takes_over:
                await self._check_parts()
                await self.notifier.take_over()  # what follows is what only one server can have
            stack.push_async_callback(self.instruments.stop)
            await self.journal.open()
            if self.receiver:
                stack.callback(self.receiver.close)
            stack.push_async_callback(self.journal.close)
            sockets = self._sockets or await open_listeners(self.config, receives=self.role.receives)
            stack.callback(close, sockets)
            stack.callback(asyncio.create_task(self.notifier.keep_alive(self.journal.answer)).cancel)
            admin_host, admin_port = await self.admin.start(sockets[ADMIN])
            stack.push_async_callback(self.admin.stop)
            if self.mapped_posts:
                stack.callback(self.mapped_posts.close)
            listens: dict[str, Any] = {}
            if self.receiver:
                host, port = await self.receiver.start(sockets[RECEIVER])
                listens = {"host": host, "port": port}
                stack.push_async_callback(self.receiver.stop)
            if self.role.delivers:
                await self._start_deliveries(stack)
            self.instruments.start(self.admin.figures.update)
            self._started = stack.pop_all()
        show_validity(self.config, self.metrics)
        listens |= {"admin_host": admin_host, "admin_port": admin_port} if admin_port else {"admin_socket": admin_host}
        event = "listening" if self.receiver else "delivering"
        known = {key: value for key, value in self._identity.items() if value is not None}
        log.info(event, **listens, **known, version=version("btfeed"), mapping=native.PATH)
        self.notifier.ready(f"listening on {listens['host']}:{listens['port']}" if self.receiver else event)
        await log_advice(self.config, self.role)

    async def _start_deliveries(self, stack: AsyncExitStack) -> None:
        """SQLite's journal is open. One in Kafka may be away: then sinks start as soon as it says which ones are paused."""
        stack.push_async_callback(self.deliveries.stop)
        if not journals.halves(self.config.journal):
            await self.control.load()
            self._start_sinks()
        else:
            stack.callback(asyncio.create_task(self._start_later(), name="start of the sinks").cancel)
            left = LeftPartitions(self.deliveries, self._serial_sinks, self._objects)
            stack.callback(asyncio.create_task(self.control.follow(), name="pauses of sinks").cancel)
            stack.callback(asyncio.create_task(left.run(), name="lost partitions").cancel)

    def _start_sinks(self) -> None:
        for name in self.config.sinks:
            if not self.deliveries.is_running(name):
                self.deliveries.start_sink(name)

    async def _start_later(self) -> None:
        told = ""
        while True:
            try:
                async with self.changing:
                    await self.control.load()
                    self._start_sinks()
            except JournalError as error:
                if str(error) != told:
                    log.warning("can't begin to deliver, retrying", error=str(error))
                told = str(error)
                await asyncio.sleep(START_AGAIN)
            else:
                return

    async def _check_parts(self) -> None:
        """Raise what would raise later, when the old server has stopped. A journal in Kafka opens without it, too."""
        checks = journals.checks(self.config.journal, receives=self.role.receives, delivers=self.role.delivers)
        for _, _, attempt in checks:
            with suppress(JournalInUse, SinkError):
                await attempt
        if self.role.receives and self.config.receiver.tls:
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
            kept=self._kept,
            why_not_ready=self._why_not_ready,
            sinks=self.deliveries.statuses,
            control=self.control,
            taps=self.taps,
            metrics=self.metrics,
            version=version("btfeed"),
            identity=self._identity,
            configuration=lambda: shown.of(self.config),
            dead_letters=self._dead_letters,
            wants=lambda: {name: sink.common.filter.accepts for name, sink in self.config.sinks.items()},
            newest=self._newest,
        )

    def _why_not_ready(self) -> str | None:
        """A process that only delivers takes no posts, and is ready as long as it runs."""
        if self.stopping:
            return "shutting down"
        return self.journal.refusing if self.role.receives else None

    async def _kept(self) -> Sequence[Kept]:
        """A process that only receives knows of none."""
        return await self.journal.kept() if self.role.delivers else ()

    def _dead_letters(self) -> AbstractContextManager[DeadLetters]:
        return journals.dead_letters(self.config.journal, self.config.receiver.max_occurrences, self.journal)

    async def _newest(self) -> Batch:
        return await newest(self.deliveries, self.mapped_posts) if self.mapped_posts else Batch()

    def _serial_sinks(self) -> dict[str, SinkConfig]:
        return {name: sink for name, sink in self.config.sinks.items() if sink.type.serial}

    def _type_of(self, sink: str) -> str:
        found = self.config.sinks.get(sink)  # None while a reload removes it
        return found.common.type if found else "unknown"

    def _create_delivery(self, name: str, outlet: Outlet, status: SinkStatus) -> Delivery:
        assert self.mapped_posts
        config = self.config.sinks[name]
        found = self._objects.create(name, config, outlet.partition)
        return create_delivery(
            name, config, found.sink, outlet, self.mapped_posts, self.metrics, status, self.taps, found.shared
        )


def starts(config: Config) -> dict[str, str]:
    """Where each sink begins if it is new: "oldest" or "latest" post."""
    return {name: sink.common.start for name, sink in config.sinks.items()}
