"""GET /tap: the records that sinks get, as NDJSON, for as long as both sides like."""

from collections.abc import Collection
from contextlib import suppress

from aiohttp import web

from btfeed.admin.access import TAP
from btfeed.admin.answers import as_text, stream
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.tap import Taps, TooManyWatchers, Wanted, Watcher
from sinks.shared.clock import Clock

INTERVAL = 0.05
"""Seconds between two pieces of an answer: with `tap.MAX_LINES`, it bounds what a fast reader costs."""
STALLED = 30.0
"""Seconds after which a reader that takes nothing is cut off."""
ALIVE = 1.0
"""Seconds between two looks whether the reader is still there."""


class TapRoutes:
    """The route, as an application of aiohttp takes it. sinks: those that there are."""

    def __init__(self, taps: Taps, sinks: Collection[str], metrics: Metrics, clock: Clock) -> None:
        self._taps = taps
        self._sinks = sinks
        self._metrics = metrics
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [web.get(TAP, self._tap, allow_head=False)]

    async def _tap(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        sinks, transactions = query.getall("sink", []), query.getall("transaction", [])
        if unknown := query.keys() - {"sink", "transaction", "limit"}:
            return as_text(400, f"unknown parameter {min(unknown)}")
        if missing := [sink for sink in sinks if sink not in self._sinks]:
            known = ", ".join(self._sinks) or "none"
            return as_text(404, f"no sink {missing[0]} is running: the sinks are {known}")
        limit = query.get("limit")
        if limit is not None and not (limit.isascii() and limit.isdecimal()):
            return web.Response(status=400, text="limit must be a number\n")
        try:
            watcher = self._taps.watch(Wanted(sinks, transactions, None if limit is None else int(limit)))
        except TooManyWatchers as error:
            self._metrics.admin_refused.labels("taps").inc()
            return web.Response(status=503, text=f"{error}\n")
        try:
            return await self._stream(request, watcher)
        finally:
            self._taps.leave(watcher)

    async def _stream(self, request: web.Request, watcher: Watcher) -> web.StreamResponse:
        async with stream(request, "application/x-ndjson") as response:
            more = True
            while more:
                if not await self._until_lines(request, watcher):
                    break
                lines, lost, more = watcher.take()
                if lost:
                    lines.append(b'{"lost":%d}\n' % lost)
                async with self._clock.timeout(STALLED):
                    await response.write(b"".join(lines))
                if more:
                    await self._clock.sleep(INTERVAL)
        return response

    async def _until_lines(self, request: web.Request, watcher: Watcher) -> bool:
        """Wait for lines, or for the end. False if the reader is gone."""
        while request.transport and not request.transport.is_closing():
            with suppress(TimeoutError):
                async with self._clock.timeout(ALIVE):
                    await watcher.wait()
                    return True
        return False
