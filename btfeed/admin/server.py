"""The admin listener: is it alive, would it take a post, what are its figures, how far behind is which sink."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from btfeed import native
from btfeed.address import Address, host_and_port
from btfeed.journal.base import Backlog, Backlogs, JournalError
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus
from sinks.settings import Settings

PATIENCE = 2.0
"""Seconds that the journal has to say how far behind the sinks are."""
IDLE_TIMEOUT = 60.0
"""Seconds after which a connection that sends no whole header is closed."""


class AdminSettings(Settings):
    """Where to ask how it is. It has no credentials: keep it on loopback, or behind something that has.

    listen  address and port
    """

    listen: Address = "127.0.0.1:4322"


class Admin:
    """GET /healthz, /readyz, /metrics, /status."""

    def __init__(
        self,
        settings: AdminSettings,
        journal: Backlogs,
        refusing: Callable[[], str | None],
        sinks: Mapping[str, SinkStatus],
        metrics: Metrics,
        version: str,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._refusing = refusing
        self._sinks = sinks
        self._metrics = metrics
        self._version = version
        self._started = time.time()
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._show_metrics),
                web.get("/status", self._status),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=IDLE_TIMEOUT)

    async def start(self) -> tuple[str, int]:
        """Listen; returns the host and port taken. Raises OSError."""
        await self._runner.setup()
        host, port = host_and_port(self._settings.listen)
        await web.TCPSite(self._runner, host, port).start()
        host, port, *_ = self._runner.addresses[0]
        return host, port

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        refusing = self._refusing()
        lines = [f"not ready: {refusing}" if refusing else "ready"]
        lines += [
            f"sink {name} is misconfigured: {sink.last_error}"
            for name, sink in self._sinks.items()
            if sink.state == "misconfigured"
        ]
        return web.Response(status=503 if refusing else 200, text="\n".join(lines) + "\n")

    async def _show_metrics(self, request: web.Request) -> web.Response:
        await self._backlogs()
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _status(self, request: web.Request) -> web.Response:
        backlogs = await self._backlogs()
        status = {
            "version": self._version,
            "mapping": native.PATH,
            "uptime_seconds": round(time.time() - self._started, 3),
            "ready": self._refusing() is None,
            "refusing": self._refusing(),
            "counts": self._metrics.summary(),
            "violations": [
                {"transaction": transaction, "field": field, "rule": rule, "count": count}
                for (transaction, field, rule), count in self._metrics.violations.most_common()
            ],
            "sinks": {name: _sink_status(sink, backlogs.get(name)) for name, sink in self._sinks.items()},
        }
        return web.Response(body=msgspec.json.encode(status), content_type="application/json")

    async def _backlogs(self) -> dict[str, Backlog]:
        """By sink; empty where the journal can't be asked, or its disk hangs."""
        try:
            async with asyncio.timeout(PATIENCE):
                found = {name: await self._journal.backlog(name) for name in self._sinks}
        except (JournalError, TimeoutError):
            return {}
        for name, backlog in found.items():
            self._metrics.backlog_posts.labels(name).set(backlog.posts)
            self._metrics.backlog_age.labels(name).set(backlog.age)
        return found


def _sink_status(sink: SinkStatus, backlog: Backlog | None) -> dict[str, Any]:
    return {
        "state": sink.state,
        "backlog_posts": backlog.posts if backlog else None,
        "backlog_age_seconds": round(backlog.age, 3) if backlog else None,
        "delivered": sink.delivered,
        "retried": sink.retried,
        "dead_letters": sink.dead_letters,
        "last_error": sink.last_error,
        "last_error_time": sink.last_error_time,
    }
