"""The admin listener: GET /healthz, /readyz, /metrics and /status, and what control.py and tap.py add."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from btfeed.address import BACKLOG, listen
from btfeed.admin.access import Access, mark
from btfeed.admin.control import MAX_BODY, Control, SinkRoutes, described
from btfeed.admin.figures import BACKLOG_TIMEOUT, Figures
from btfeed.admin.settings import AdminSettings
from btfeed.admin.tap import TapRoutes
from btfeed.journal.base import Backlogs, Kept
from btfeed.records.encoding import rfc3339
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.printable import printable
from btfeed.telemetry.sink_status import SinkStatus
from btfeed.telemetry.tap import Taps
from sinks.shared.clock import SYSTEM_CLOCK, Clock

IDLE_TIMEOUT = 60.0
"""Seconds after which a connection without a complete request header is closed."""
PROBLEMS = {"misconfigured": "is misconfigured", "rejecting": "rejects everything"}
"""States of sinks that /readyz lists, in words."""


class Admin:
    """Serves health, readiness, metrics and status, and lets sinks be controlled.

    kept           gives the dead letters that are kept
    why_not_ready  why a post would not be accepted now, None if it would
    """

    def __init__(
        self,
        settings: AdminSettings,
        journal: Backlogs,
        kept: Callable[[], Awaitable[Sequence[Kept]]],
        why_not_ready: Callable[[], str | None],
        sinks: Mapping[str, SinkStatus],
        control: Control,
        taps: Taps,
        metrics: Metrics,
        version: str,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self.figures = Figures(journal, kept, why_not_ready, sinks, metrics, version, clock)
        self._why_not_ready = why_not_ready
        self._sinks = sinks
        self._control = control
        self._taps = taps
        self._clock = clock
        self._access = Access(settings, metrics)
        app = web.Application(middlewares=[self._access.middleware], client_max_size=MAX_BODY)
        app.on_response_prepare.append(mark)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._get_metrics),
                web.get("/status", self._status),
                *SinkRoutes(control).routes(),
                *TapRoutes(taps, sinks, metrics, clock).routes(),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=IDLE_TIMEOUT)
        self._listeners: list[asyncio.Server] = []

    async def start(self, sockets: Sequence[socket.socket] = ()) -> tuple[str, int]:
        """Accept connections. Returns the host and port in use. Raises OSError.

        sockets: which listen already; without any, listen where the settings say.
        """
        await self._runner.setup()
        assert self._runner.server
        loop = asyncio.get_running_loop()
        sockets = sockets or await listen(self._settings.listen)
        host, port, *_ = sockets[0].getsockname()
        self._listeners = [await loop.create_server(self._runner.server, sock=each, backlog=BACKLOG) for each in sockets]
        return host, port

    def reconfigure(self, settings: AdminSettings) -> None:
        """Answer requests with other settings from now on. The address stays."""
        self._settings = settings
        self._access.reconfigure(settings)

    async def stop(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._taps.close()
        await self._runner.cleanup()
        self._access.close()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        reason = self._why_not_ready()
        lines = [f"not ready: {reason}" if reason else "ready"]
        for state, problem in PROBLEMS.items():
            sinks = ((name, sink) for name, sink in self._sinks.items() if sink.state == state)
            lines += [f"sink {name} {problem}: {sink.last_error}" for name, sink in sinks]
        paused = ((name, since) for name, since in self._control.paused.items() if name in self._sinks)
        lines += [f"sink {name} is paused since {rfc3339(since)}" for name, since in paused]
        return web.Response(status=503 if reason else 200, text=printable("\n".join(lines)) + "\n")

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=await self.figures.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _status(self, request: web.Request) -> web.Response:
        status = await self.figures.status()
        for name, more in (await described(self._control, status["sinks"], self._clock, BACKLOG_TIMEOUT)).items():
            status["sinks"][name] |= more
        return web.Response(body=msgspec.json.encode(status), content_type="application/json")
