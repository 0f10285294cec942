"""GET /records: the newest records, as a table that a page asks for again and again.

Records nothing until somebody asks. The first request gets the records of the newest posts in the journal. From then on, it
records what sinks get, a sample of it under load, until nobody has asked for a while.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import web

from btfeed.admin.access import RECORDS
from btfeed.admin.answers import as_json, is_number
from btfeed.admin.parts import Parts
from btfeed.journal.base import JournalError
from btfeed.telemetry.tap import Wanted
from btfeed.telemetry.wording import cut
from sinks.batch import Batch
from sinks.shared.clock import Clock

MAX_RECORDS = 100
"""Records that are kept, and records that are taken in INTERVAL seconds."""
INTERVAL = 1.0
KEPT = 30.0
"""Seconds for which it is recorded after a request."""
MAX_RECORDERS = 4
"""Choices of transactions that are recorded at the same time. The one that was asked for longest ago makes room."""
MAX_TRANSACTIONS = 20
"""Transactions in one choice."""
MAX_BYTES = 32_768
"""A larger record is shown without its content."""
JOURNAL_TIMEOUT = 2.0
"""Seconds to wait for the newest posts of the journal."""


class _Head(msgspec.Struct):
    """What the table shows of a record."""

    id: str = msgspec.field(name="event.id", default="")
    timestamp: str | int | None = None
    transaction: str = msgspec.field(name="event.name", default="")
    category: str = msgspec.field(name="event.category", default="")


class _Line(msgspec.Struct):
    """A line of a tap, see btfeed/delivery/lines.py."""

    sink: str
    record: msgspec.Raw


class _Names(frozenset[str]):
    """Names of transactions as the page has them: long ones are cut."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and super().__contains__(cut(name)))


class _Recorder:
    """Records until `stop`. skipped: records that were not taken because there were too many."""

    def __init__(self, parts: Parts, transactions: frozenset[str], clock: Clock) -> None:
        self.skipped = 0
        self.since = round(clock.time() * 1000)
        self.asked = clock.monotonic()
        self._parts = parts
        self._names = _Names(transactions)
        self._clock = clock
        self._records: OrderedDict[str, dict[str, Any]] = OrderedDict()  # by event.id, the newest last
        self._watcher = parts.taps.sample(Wanted(transactions=self._names), MAX_RECORDS)

    def stop(self) -> None:
        self._parts.taps.leave(self._watcher)

    def seed(self, batch: Batch) -> None:
        """Begin with what was received before."""
        if self._names:
            names = enumerate(transaction.name for transaction in batch.transactions)
            batch = batch.take([index for index, name in names if name in self._names])
        for body in batch.slice(len(batch) - MAX_RECORDS, len(batch)).bodies:
            self._add(body, ())

    def take(self) -> None:
        """Add what has come since."""
        lines, lost, _ = self._watcher.take()
        self.skipped += lost
        for line in lines:
            found = msgspec.json.decode(line, type=_Line)
            self._add(bytes(found.record), (found.sink,))

    def _add(self, body: bytes, sinks: Sequence[str]) -> None:
        head = msgspec.json.decode(body, type=_Head)
        known = self._records.get(head.id)
        if known and head.id:
            known["sinks"] += [sink for sink in sinks if sink not in known["sinks"]]
            return
        self._records[head.id or f"{len(self._records)} {self._clock.monotonic()}"] = {
            "id": head.id,
            "time": head.timestamp,
            "transaction": cut(head.transaction),
            "category": cut(head.category),
            "sinks": list(sinks),
            "bytes": len(body),
            "record": msgspec.Raw(body) if len(body) <= MAX_BYTES else None,
        }
        if len(self._records) > MAX_RECORDS:
            self._records.popitem(last=False)

    def shown(self, limit: int) -> dict[str, Any]:
        newest = list(reversed(self._records.values()))[:limit]
        return {"since": self.since, "skipped": self.skipped, "records": newest}


class RecordRoutes:
    """The route, as an application of aiohttp takes it."""

    def __init__(self, parts: Parts, clock: Clock) -> None:
        self._parts = parts
        self._clock = clock
        self._recorders: dict[frozenset[str], _Recorder] = {}
        self._running: asyncio.Task[None] | None = None

    def routes(self) -> list[web.RouteDef]:
        return [web.get(RECORDS, self._records, allow_head=False)]

    def close(self) -> None:
        if self._running:
            self._running.cancel()
        for chosen in list(self._recorders):
            self._recorders.pop(chosen).stop()

    async def _records(self, request: web.Request) -> web.Response:
        limit = request.query.get("limit", str(MAX_RECORDS))
        if not (is_number(limit) and len(limit) < 10 and int(limit)):
            return web.Response(status=400, text="limit must be 1 or more, in digits\n")
        chosen = frozenset(request.query.getall("transaction", []))
        if len(chosen) > MAX_TRANSACTIONS:
            return web.Response(status=400, text=f"choose at most {MAX_TRANSACTIONS} transactions\n")
        return as_json(await self.newest(chosen, int(limit)))

    async def newest(self, transactions: frozenset[str], limit: int) -> dict[str, Any]:
        """What /records answers: of these business transactions, or of all."""
        recorder = self._recorders.get(transactions) or await self._begin(transactions)
        recorder.asked = self._clock.monotonic()
        recorder.take()
        return recorder.shown(limit)

    async def _begin(self, chosen: frozenset[str]) -> _Recorder:
        newest = Batch()
        with suppress(JournalError, TimeoutError):
            async with self._clock.timeout(JOURNAL_TIMEOUT):
                newest = await self._parts.newest()
        if chosen in self._recorders:  # another request began it meanwhile
            return self._recorders[chosen]
        if len(self._recorders) >= MAX_RECORDERS:
            oldest = min(self._recorders, key=lambda key: self._recorders[key].asked)
            self._recorders.pop(oldest).stop()
        recorder = self._recorders[chosen] = _Recorder(self._parts, chosen, self._clock)
        recorder.seed(newest)
        if not self._running or self._running.done():
            self._running = asyncio.create_task(self._run(), name="newest records")
        return recorder

    async def _run(self) -> None:
        """Take records now and then, so that what is kept are the newest."""
        while self._recorders:
            await self._clock.sleep(INTERVAL)
            for chosen, recorder in list(self._recorders.items()):
                if self._clock.monotonic() - recorder.asked > KEPT:
                    self._recorders.pop(chosen).stop()
                else:
                    recorder.take()
