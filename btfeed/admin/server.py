"""The admin listener: GET /healthz, /readyz, /metrics and /status."""

import asyncio
import heapq
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from btfeed import native
from btfeed.address import BACKLOG, listen
from btfeed.admin.access import Access, mark
from btfeed.admin.settings import AdminSettings
from btfeed.journal.base import Backlog, Backlogs, JournalError, Kept
from btfeed.telemetry.metrics import Metrics, Reload
from btfeed.telemetry.printable import printable
from btfeed.telemetry.sink_status import SinkStatus
from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()

BACKLOG_TIMEOUT = 2.0
"""Seconds to wait for the journal's figures. /status and /metrics answer without them afterwards."""
IDLE_TIMEOUT = 60.0
"""Seconds after which a connection without a complete request header is closed."""
PROBLEMS = {"misconfigured": "is misconfigured", "rejecting": "rejects everything"}
"""States of sinks that /readyz lists, in words."""
MAX_BLOCKED = 100
"""Blocked destinations of a sink that /status lists: those for which most records wait."""


class Admin:
    """Serves health, readiness, metrics and status.

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
        metrics: Metrics,
        version: str,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._kept = kept
        self._why_not_ready = why_not_ready
        self._sinks = sinks
        self._metrics = metrics
        self._version = version
        self._clock = clock
        self._started = clock.monotonic()
        self._access = Access(settings, metrics)
        app = web.Application(middlewares=[self._access.middleware])
        app.on_response_prepare.append(mark)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._get_metrics),
                web.get("/status", self._status),
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
        return web.Response(status=503 if reason else 200, text=printable("\n".join(lines)) + "\n")

    async def _get_metrics(self, request: web.Request) -> web.Response:
        await self._update_figures()
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _status(self, request: web.Request) -> web.Response:
        backlogs, kept = await self._update_figures()
        reason = self._why_not_ready()
        status = {
            "version": self._version,
            "mapping": native.PATH,
            "uptime_seconds": round(self._clock.monotonic() - self._started, 3),
            "ready": reason is None,
            "refusing": reason,
            "reload": _reload(self._metrics.last_reload),
            "counts": self._metrics.summary(),
            "violations": [
                {"transaction": transaction, "field": field, "rule": rule, "count": count}
                for (transaction, field, rule), count in self._metrics.violations.most_common()
            ],
            "dead_letters": kept,
            "sinks": {name: _sink_status(sink, backlogs.get(name)) for name, sink in self._sinks.items()},
        }
        return web.Response(body=msgspec.json.encode(status), content_type="application/json")

    async def _update_figures(self) -> tuple[dict[str, Backlog], list[dict[str, Any]] | None]:
        """Update the metrics that the journal knows. Returns the backlogs by sink, and what /status shows of dead letters:
        nothing and None if the journal fails or does not answer."""
        try:
            async with self._clock.timeout(BACKLOG_TIMEOUT):
                backlogs = {name: await self._journal.backlog(name) for name in list(self._sinks)}
                kept = await self._kept()
        except (JournalError, TimeoutError) as error:
            log.debug("backlog unknown", error=str(error) or "the journal did not answer in time")
            return {}, None
        for name, backlog in backlogs.items():
            if name not in self._sinks:  # it was removed meanwhile
                continue
            self._metrics.backlog_posts.labels(name).set(backlog.posts)
            self._metrics.backlog_age.labels(name).set(backlog.age)
        return backlogs, self._update_dead_letters(kept)

    def _update_dead_letters(self, kept: Sequence[Kept]) -> list[dict[str, Any]]:
        self._metrics.dead_letters_kept.clear()
        self._metrics.dead_letters_oldest.clear()
        shown = []
        for sink, cause, letters, oldest in kept:
            age = max(0.0, round(self._clock.time() - oldest / 1000, 3))
            self._metrics.dead_letters_kept.labels(sink, cause).set(letters)
            self._metrics.dead_letters_oldest.labels(sink, cause).set(age)
            shown.append({"sink": sink, "reason": cause, "letters": letters, "oldest_age_seconds": age})
        return shown


def _reload(last: Reload | None) -> dict[str, Any] | None:
    return {"time": last.time, "outcome": last.outcome, "errors": last.errors} if last else None


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
        "blocked": [
            {"destination": name, "reason": each.reason, "since": each.since, "waiting": each.waiting}
            for name, each in heapq.nlargest(MAX_BLOCKED, sink.blocked.items(), key=lambda item: item[1].waiting)
        ],
        "blocked_destinations": len(sink.blocked),
    }
