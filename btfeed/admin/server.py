"""The admin listener: GET /healthz, /readyz, /metrics, /status and /history, and what other modules here add."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from btfeed.address import BACKLOG, listen, where
from btfeed.admin.access import Access, mark, trusted
from btfeed.admin.answers import as_json
from btfeed.admin.control import MAX_BODY, SinkRoutes
from btfeed.admin.events import Events
from btfeed.admin.figures import Figures
from btfeed.admin.letters import LetterRoutes, Letters
from btfeed.admin.page import PageRoutes
from btfeed.admin.parts import Parts
from btfeed.admin.records import RecordRoutes
from btfeed.admin.sampler import Sampler
from btfeed.admin.settings import AdminSettings
from btfeed.admin.snapshot import Snapshots
from btfeed.admin.tap import TapRoutes
from btfeed.records.encoding import rfc3339
from btfeed.telemetry.printable import printable
from sinks.shared.clock import SYSTEM_CLOCK, Clock

IDLE_TIMEOUT = 60.0
"""Seconds after which a connection without a complete request header is closed."""
PROBLEMS = {"misconfigured": "is misconfigured", "rejecting": "rejects everything"}
"""States of sinks that /readyz lists, in words."""


class Admin:
    """Serves health, readiness, metrics and status, and lets sinks be controlled."""

    def __init__(self, settings: AdminSettings, parts: Parts, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._parts = parts
        metrics = parts.metrics
        self.figures = Figures(parts.journal, parts.kept, parts.why_not_ready, parts.sinks, metrics, clock)
        self._sampler = Sampler(metrics, parts.sinks, self.figures.backlogs, clock)
        self._letters = Letters(parts)
        self.snapshots = Snapshots(parts, self.figures, self._sampler, self._letters, clock)
        self.history = self._sampler.history
        self._records = RecordRoutes(parts, clock)
        self._events = Events(self._snapshot, self.history.shown, lambda: self.history.version, metrics, clock)
        self._access = Access(settings, metrics, clock)
        self._page = PageRoutes(
            self.snapshots,
            self.history,
            self._records.newest,
            lambda: self._settings.token is not None,
            parts.version,
            clock,
        )
        app = web.Application(middlewares=[self._access.middleware, self._page.middleware], client_max_size=MAX_BODY)
        app.on_response_prepare.append(mark)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._get_metrics),
                web.get("/status", self._status),
                web.get("/history", self._history),
                *self._access.routes(),
                *self._page.routes(),
                *self._events.routes(),
                *self._records.routes(),
                *LetterRoutes(self._letters).routes(),
                *SinkRoutes(parts.control).routes(),
                *TapRoutes(parts.taps, parts.sinks, metrics, clock).routes(),
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
        host, port = where(sockets[0])
        self._listeners = [await loop.create_server(self._runner.server, sock=each, backlog=BACKLOG) for each in sockets]
        self._sampler.start()
        return host, port

    def reconfigure(self, settings: AdminSettings) -> None:
        """Answer requests with other settings from now on. The address stays."""
        self._settings = settings
        self._access.reconfigure(settings)
        self._page.renew()

    async def stop(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._sampler.stop()
        self._events.close()
        self._page.close()
        self._records.close()
        self._letters.close()
        self._parts.taps.close()
        await self._runner.cleanup()
        self._access.close()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        """Open to all: without the words of a destination, which may quote a record."""
        reason = self._parts.why_not_ready()
        lines = [f"not ready: {reason}" if reason else "ready"]
        for state, problem in PROBLEMS.items():
            lines += [f"sink {name} {problem}" for name, sink in self._parts.sinks.items() if sink.state == state]
        paused = ((name, since) for name, since in self._parts.control.paused.items() if name in self._parts.sinks)
        lines += [f"sink {name} is paused since {rfc3339(since)}" for name, since in paused]
        return web.Response(status=503 if reason else 200, text=printable("\n".join(lines)) + "\n")

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=await self.figures.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _snapshot(self) -> dict[str, Any]:
        """For an event, after which pages are asked for that show the same or newer."""
        shown = await self.snapshots.read(private=False)
        self._page.renew()
        return shown

    async def _status(self, request: web.Request) -> web.Response:
        return as_json(await self.snapshots.read(private=trusted(request)))

    async def _history(self, request: web.Request) -> web.Response:
        return as_json(self.history.shown())
