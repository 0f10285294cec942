"""The newest records: recorded for those who ask, and for nobody else."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from btfeed.admin.parts import Parts
from btfeed.admin.records import INTERVAL, KEPT, MAX_BYTES, MAX_RECORDERS, MAX_RECORDS, RecordRoutes
from btfeed.journal.base import JournalUnavailable
from btfeed.telemetry.wording import cut
from sinks.batch import Batch, Transaction
from tests.admin.parts import EMPTY, Nothing, parts
from tests.admin.serving import serve
from tests.support.clock import FakeClock, settle

LONG = "x" * 10_000
HOSTILE = "<script>\u202e"


def batch(first: int, number: int = 1, name: str = "search", size: int = 0) -> Batch:
    """Records with the ids from `first` on."""
    ids = [f"id-{first + place}" for place in range(number)]
    bodies = [
        json.dumps({"event.id": each, "event.name": name, "event.category": "visit", "timestamp": "t", "x": "y" * size})
        for each in ids
    ]
    lines = [memoryview(body.encode() + b"\n") for body in bodies]
    transaction = Transaction(name, "application", "profile", "server", "visit")
    return Batch(ids, ids, [0] * number, [transaction] * number, [*map(len, lines)], lines)


def render(sink: str, some: Batch) -> list[bytes]:
    return [b'{"sink":"' + sink.encode() + b'","record":' + body + b"}\n" for body in some.bodies]


class Listener:
    """Serves the newest records of a server. newest: those in its journal."""

    def __init__(self, newest: Batch = EMPTY) -> None:
        self.clock = FakeClock()
        self.parts: Parts = parts(Nothing(), newest=newest)
        self.routes = RecordRoutes(self.parts, self.clock)

    async def __aenter__(self) -> "Listener":
        self._runner, port = await serve(self.routes.routes())
        self._session = ClientSession(f"http://127.0.0.1:{port}")
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.routes.close()
        await self._session.close()
        await self._runner.cleanup()

    async def ask(self, **query: Any) -> Any:
        """The answer, or the status and text of an error."""
        async with self._session.get("/records", params=query) as response:
            if response.status != 200:
                return response.status, await response.text()
            return json.loads(await response.read())

    async def ids(self, **query: Any) -> list[str]:
        return [record["id"] for record in (await self.ask(**query))["records"]]

    def deliver(self, some: Batch, sink: str = "a") -> bool:
        """Returns whether somebody looked at it."""
        looked = []

        def seen(taken: Batch) -> list[bytes]:
            looked.append(taken)
            return render(sink, taken)

        self.parts.taps.offer(sink, some, seen)
        return bool(looked)


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with Listener() as found:
        yield found


async def test_it_begins_with_the_newest_posts_of_the_journal() -> None:
    """The newest record comes first; which sinks get it is not known."""
    async with Listener(batch(0, 150)) as listener:
        found = await listener.ask(limit=2)
        assert [(each["id"], each["sinks"]) for each in found["records"]] == [("id-149", []), ("id-148", [])]
        assert found["records"][0]["record"]["event.name"] == "search"
        assert len(await listener.ids()) == MAX_RECORDS


async def test_it_goes_on_with_what_sinks_get(listener: Listener) -> None:
    """A record that several sinks get is one."""
    assert await listener.ids() == []
    assert listener.deliver(batch(1))
    listener.deliver(batch(2))
    listener.deliver(batch(1), "b")
    found = (await listener.ask())["records"]
    assert [(each["id"], each["sinks"]) for each in found] == [("id-2", ["a"]), ("id-1", ["a", "b"])]
    assert (found[0]["transaction"], found[0]["category"], found[0]["time"]) == ("search", "visit", "t")


async def test_nothing_is_recorded_while_nobody_asks(listener: Listener) -> None:
    """Neither before the first request nor some time after the last one."""
    assert not listener.deliver(batch(1))
    await listener.ask()
    for _ in range(3):
        await listener.clock.advance(KEPT)
        assert listener.deliver(batch(1))
        await listener.ask()
    await listener.clock.advance(KEPT + 2 * INTERVAL)
    assert not listener.deliver(batch(1))
    assert listener.clock.waiting == 0


async def test_under_load_it_is_a_sample(listener: Listener) -> None:
    """Of each second, so that it costs the same whatever comes. No reader is said to have lost anything."""
    await listener.ask()
    listener.deliver(batch(0, 5_000))
    await listener.clock.advance(INTERVAL)
    assert listener.deliver(batch(5_000, 5_000))
    assert not listener.deliver(batch(10_000))
    found = await listener.ask()
    assert found["skipped"] == 2 * (5_000 - MAX_RECORDS) + 1
    assert [each["id"] for each in found["records"]] == [f"id-{5_000 + MAX_RECORDS - 1 - at}" for at in range(MAX_RECORDS)]
    metrics: Any = listener.parts.metrics
    assert (metrics.taps._value.get(), metrics.tap_lost._value.get()) == (0, 0)


async def test_records_are_chosen_by_transaction() -> None:
    """Also by names that had to be cut, and those with markup."""
    async with Listener(Batch.concat([batch(0), batch(1, name=LONG), batch(2, name=HOSTILE)])) as listener:
        assert await listener.ids(transaction="search") == ["id-0"]
        assert await listener.ids(transaction=cut(LONG)) == ["id-1"]
        assert await listener.ids(transaction=HOSTILE) == ["id-2"]
        listener.deliver(batch(3, name=LONG))
        listener.deliver(batch(4))
        assert await listener.ids(transaction=cut(LONG)) == ["id-3", "id-1"]
        [first, _] = (await listener.ask(transaction=cut(LONG)))["records"]
        assert (first["transaction"], first["record"]["event.name"]) == (cut(LONG), LONG)


async def test_choices_are_bounded(listener: Listener) -> None:
    """A further one ends that which was asked for longest ago."""
    for number in range(10 * MAX_RECORDERS):
        await listener.ask(transaction=str(number))
        listener.clock.now += 0.1
    assert len(listener.parts.taps._watchers) == MAX_RECORDERS
    many = [("transaction", str(number)) for number in range(21)]
    async with listener._session.get("/records", params=many) as response:
        assert response.status == 400
    assert await listener.ask(limit="many") == (400, "limit must be 1 or more, in digits\n")
    assert await listener.ask(limit=0) == (400, "limit must be 1 or more, in digits\n")


async def test_a_record_that_is_too_long_is_left_out(listener: Listener) -> None:
    """Its row stays."""
    await listener.ask()
    listener.deliver(batch(1, size=MAX_BYTES))
    [found] = (await listener.ask())["records"]
    assert (found["record"], found["bytes"] > MAX_BYTES, found["id"]) == (None, True, "id-1")


async def test_a_journal_that_fails_or_hangs_leaves_it_empty(listener: Listener) -> None:
    """What comes is recorded all the same."""
    asked = asyncio.Event()

    async def fails() -> Batch:
        raise JournalUnavailable("the disk failed")

    async def hangs() -> Batch:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    object.__setattr__(listener.parts, "newest", fails)
    assert await listener.ids() == []
    object.__setattr__(listener.parts, "newest", hangs)
    asking = asyncio.create_task(listener.ids(transaction="b"))
    await asked.wait()
    await settle()
    await listener.clock.advance(KEPT / 2)
    assert await asking == []
