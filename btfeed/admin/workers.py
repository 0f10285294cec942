"""The admin listener of `btfeed receive --workers`: it asks each worker, and answers for all of them.

A worker's own listener is a socket in a private directory. Every request is checked as by that listener (access.py). The
worker gets the token with it, or if there is none, a header that says that the request comes from elsewhere, unless it
comes from this machine.
"""

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from btfeed.address import BACKLOG
from btfeed.admin.access import Access, mark, trusted
from btfeed.admin.answers import as_json, as_text
from btfeed.admin.merged import merge_metrics, merge_snapshots
from btfeed.admin.settings import AdminSettings
from btfeed.telemetry.metrics import Metrics

PATIENCE = aiohttp.ClientTimeout(total=5.0)
"""Time that a worker has to answer. It gives up its journal's figures after 2 s."""
REFUSALS = "btfeed_admin_refused_total"
NONE_ANSWERS = "no worker answers"


class WorkersAdmin:
    """Answers for the workers that have sockets in `directory`, under their numbers from 1 to `number`."""

    def __init__(self, settings: AdminSettings, directory: Path, number: int) -> None:
        self._settings = settings
        self._workers = {each: directory / str(each) for each in range(1, number + 1)}
        self._sessions: dict[int, aiohttp.ClientSession] = {}
        self._own = Metrics()  # of which only refusals are told, as those of worker 0
        self._access = Access(settings, self._own)
        app = web.Application(middlewares=[self._access.middleware])
        app.on_response_prepare.append(mark)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/status", self._status),
                web.get("/", self._no_page),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._listeners: list[asyncio.Server] = []

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on these sockets, which listen already."""
        for number, path in self._workers.items():
            connector = aiohttp.UnixConnector(path=str(path))
            self._sessions[number] = aiohttp.ClientSession("http://localhost", connector=connector, timeout=PATIENCE)
        await self._runner.setup()
        assert self._runner.server
        loop = asyncio.get_running_loop()
        self._listeners = [await loop.create_server(self._runner.server, sock=each, backlog=BACKLOG) for each in sockets]

    def reconfigure(self, settings: AdminSettings) -> None:
        """Use another token from the next request on. The address stays."""
        self._settings = settings
        self._access.reconfigure(settings)

    async def stop(self) -> None:
        for listener in self._listeners:
            listener.close()
        await self._runner.cleanup()
        for session in self._sessions.values():
            await session.close()
        self._access.close()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        """200 while a worker takes posts: a connection to another one waits until that does, too."""
        answers = await self._ask("/readyz", request)
        lines = [
            f"worker {number}: {each[1].strip() if (each := answers.get(number)) else 'does not answer'}"
            for number in self._workers
        ]
        ready = any(status == 200 for status, _ in answers.values())
        return web.Response(status=200 if ready else 503, text="\n".join(lines) + "\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        answers = await self._ask("/metrics", request)
        texts = {number: text for number, (status, text) in answers.items() if status == 200}
        if not texts:
            return as_text(503, NONE_ANSWERS)
        refusals = generate_latest(self._own.registry.restricted_registry([REFUSALS])).decode()
        text = merge_metrics({**texts, 0: refusals})
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _status(self, request: web.Request) -> web.Response:
        answers = await self._ask("/status", request)
        snapshots: Mapping[int, dict[str, Any] | None] = {
            number: json.loads(each[1]) if (each := answers.get(number)) and each[0] == 200 else None
            for number in self._workers
        }
        if not any(snapshots.values()):
            return as_text(503, NONE_ANSWERS)
        return as_json(merge_snapshots(snapshots))

    async def _no_page(self, request: web.Request) -> web.Response:
        return as_text(404, "there is no page for several workers: see /status, /metrics and /readyz")

    async def _ask(self, path: str, request: web.Request) -> dict[int, tuple[int, str]]:
        """The status and the text that each worker answers; those that do not answer are missing."""
        token = self._settings.token
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        if not trusted(request):
            headers["X-Forwarded-For"] = "unknown"
        found: dict[int, tuple[int, str]] = {}

        async def ask(number: int) -> None:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self._sessions[number].get(path, headers=headers) as answer:
                    found[number] = answer.status, await answer.text()

        await asyncio.gather(*map(ask, self._workers))
        return dict(sorted(found.items()))
