"""What every sink must do. Runs for every sink type and for the fakes; see tests/sinks/drivers."""

import asyncio
import json
import random
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio

import sinks
from btfeed.posts.bt_pb2 import BusinessTransactions
from btfeed.posts.post import digest
from sinks.base import Misconfigured, SerialSink, Sink, Unavailable
from sinks.batch import Batch
from tests.sinks.drivers import Driver, drivers, drivers_of
from tests.support.fakes import batch_of, mapped, mapper
from tests.support.posts import mixed

DRIVERS = Path(__file__).parent / "drivers"
SHARED = {"base", "batch", "settings", "shared", "template"}
"""Modules in `sinks` that are no sinks."""
GUIDE = "see docs/sinks/writing-a-sink.md"


@pytest_asyncio.fixture(params=sorted(drivers()))
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    """An empty destination of each kind."""
    found = drivers()[request.param](tmp_path)
    yield found
    await found.close()


class Session:
    """Does what the delivery loop does: an empty first batch for a serial sink, retries, and saving the state."""

    def __init__(self, driver: Driver, state: str | None = None) -> None:
        self.driver = driver
        self.state = state

    async def __aenter__(self) -> "Session":
        self.sink: Sink = self.driver.create()
        await self.sink.open(self.state)
        if self.driver.serial:
            await self.write(Batch())
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.sink.close()

    async def write(self, batch: Batch) -> None:
        while True:
            result = await self.sink.write(batch)
            assert not result.refused
            if result.state is not None:
                self.state = result.state
                if self.driver.serial:
                    cast("SerialSink", self.sink).saved(result.state)
            if not result.retry:
                return
            assert not self.driver.serial, "a serial sink takes the whole batch in one write"
            batch = batch.take(sorted(result.retry))


async def assert_has(driver: Driver, *batches: Batch) -> None:
    """The destination has each record of `batches` once, and nothing else."""
    expected = driver.expected([body for batch in batches for body in batch.bodies])
    assert sorted(await driver.read()) == sorted(expected)


@pytest.mark.parametrize("name", sorted({*sinks.modules()} - SHARED))
def test_every_module_offers_a_sink(name: str) -> None:
    """As SINK. A module that can't be imported fails here alone, and says why."""
    wrong = None
    try:
        sinks.load(name)
    except LookupError:
        wrong = f"sinks.{name} offers no sink: end it with SINK = SinkType(...); {GUIDE}"
    except Exception:  # noqa: BLE001 - shown
        wrong = f"can't import sinks.{name}:\n{traceback.format_exc()}"
    if wrong:
        pytest.fail(wrong, pytrace=False)


@pytest.mark.parametrize("name", sinks.types())
def test_every_type_of_sink_has_a_driver(name: str) -> None:
    """Without one, this suite would not test it. A missing driver fails here alone, and says what to add."""
    file = f"tests/sinks/drivers/{name}.py"
    wrong = None
    try:
        wrong = None if drivers_of(name) else f"DRIVERS in {file} is empty"
    except Exception:  # noqa: BLE001 - shown
        wrong = f"can't use {file}:\n{traceback.format_exc()}"
    if not (DRIVERS / f"{name}.py").exists():
        wrong = f"the sink type {name!r} has no driver: add {file}; {GUIDE}"
    if wrong:
        pytest.fail(wrong, pytrace=False)


@pytest.mark.parametrize("name", sorted(path.stem for path in DRIVERS.glob("[a-z]*.py") if path.stem != "fakes"))
def test_every_driver_is_for_a_type_of_sink(name: str) -> None:
    """Otherwise, nothing runs it. It has the type's name."""
    if name not in sinks.types():
        message = (
            f"tests/sinks/drivers/{name}.py is for no type of sink: sinks.{name} is missing, or offers no SINK; {GUIDE}"
        )
        pytest.fail(message, pytrace=False)


async def test_each_record_arrives_once_and_unchanged(driver: Driver) -> None:
    """What a result doesn't name was delivered: unchanged, and once; also if several batches share a buffer."""
    batch = mapped(50)
    async with Session(driver) as session:
        await session.write(batch.slice(0, 20))
        await session.write(batch.slice(20, 21))
        await session.write(batch.take([*range(21, 30), *range(31, 50)]))
        await session.write(batch.slice(30, 31))
    await assert_has(driver, batch)


async def test_names_of_every_script_arrive(driver: Driver) -> None:
    """Users choose the names of measures and dimensions, in their language."""
    names = ["Größe", "売上", "قیمت", "ราคา", "वज़न", "ΟΔΟΣ", "٤٢", "Ⅳ", "\u0301", "❤️", "𝐀", "x" * 300]
    post = BusinessTransactions.FromString(mixed(3))
    for transaction in post.businessTransactions:
        transaction.measureNames[:] = transaction.dimensionNames[:] = names
        for occurrence in transaction.occurrences:
            occurrence.values[:] = range(len(names))
            occurrence.dimensions[:] = names
    body = post.SerializeToString()
    batch = mapper().map(body, digest(body)).batch
    assert "appmon.measure.größe" in json.loads(batch.body(0))
    async with Session(driver) as session:
        await session.write(batch)
    await assert_has(driver, batch)


async def test_a_serial_sink_keeps_the_order(driver: Driver) -> None:
    """Records arrive in the order in which they were written."""
    batches = [mapped(30, seed) for seed in range(5)]
    async with Session(driver) as session:
        for batch in batches:
            await session.write(batch)
    if driver.serial:
        assert await driver.read() == driver.expected([body for batch in batches for body in batch.bodies])


async def test_a_restart_continues_from_the_saved_state(driver: Driver) -> None:
    """Several times, without losing or duplicating a record."""
    state, batches = None, [mapped(40, seed) for seed in range(6)]
    for batch in batches:
        async with Session(driver, state) as session:
            await session.write(batch)
        state = session.state
        assert state is None or isinstance(state, str)
    await assert_has(driver, *batches)


async def test_an_empty_batch_is_harmless(driver: Driver) -> None:
    """Before, between and after others, and alone."""
    async with Session(driver) as session:
        await session.write(Batch())
        await assert_has(driver)
        await session.write(mapped(3))
        await session.write(Batch())
        await session.write(mapped(3, 1).slice(2, 2))
    async with Session(driver, session.state) as session:
        await session.write(Batch())
    await assert_has(driver, mapped(3))


async def test_check_changes_nothing(driver: Driver) -> None:
    """Neither at an empty destination nor at one that another process writes to."""
    before = await driver.snapshot()
    await check(driver.create())
    assert await driver.snapshot() == before
    async with Session(driver) as session:
        await session.write(mapped(3))
        before = await driver.snapshot()
        await check(driver.create())
        assert await driver.snapshot() == before
        await session.write(mapped(3, 1))
    await assert_has(driver, mapped(3), mapped(3, 1))


async def check(sink: Sink) -> None:
    await sink.check()
    await sink.close()


async def test_a_sink_that_cannot_open_says_why(driver: Driver) -> None:
    """open and check raise Unavailable or Misconfigured, also the second time. close works after that, and before open."""
    sink = driver.create_broken()
    for _ in range(2):
        with pytest.raises((Unavailable, Misconfigured), match=r"\w"):
            await sink.open(None)
    await sink.close()
    sink = driver.create_broken()
    with pytest.raises((Unavailable, Misconfigured), match=r"\w"):
        await sink.check()
    await sink.close()
    await driver.create().close()


async def test_what_goes_with_records_is_described_without_a_connection(driver: Driver) -> None:
    """If the sink describes them: one JSON object for each record, before it is open, and the same whenever it is asked."""
    sink = driver.create()
    if describe := getattr(sink, "describe", None):
        batch = mapped(30)
        described = list(describe(batch))
        assert len(described) == len(batch)
        assert json.loads(json.dumps(described)) == described
        assert list(describe(batch.slice(3, 30))) == described[3:]
        assert list(describe(Batch())) == []
    await sink.close()


@pytest.mark.slow
async def test_a_large_batch(driver: Driver) -> None:
    """8,000 records in one write."""
    batch = mapped(8_000)
    async with Session(driver) as session:
        await session.write(batch)
    await assert_has(driver, batch)


async def test_records_with_awkward_text(driver: Driver) -> None:
    """Newlines, quotes, control characters and every plane of Unicode stay inside their record."""
    texts = ["a\nb", "a\r\nb\\n", '"', "\\", "\u2028\u2029\x85\x0b\x0c\x1e", "\x00\x7f", "ä€😀", "{}", "", "x" * 100_000]
    columns = {"event.kind": "BIZ_EVENT", "timestamp": "2026-01-31T12:00:00.000Z"}
    records = [columns | {"event.id": f"post-{number}", "event.name": text} for number, text in enumerate(texts)]
    batch = batch_of([json.dumps(record, ensure_ascii=number % 2 == 0).encode() for number, record in enumerate(records)])
    async with Session(driver) as session:
        await session.write(batch)
    await assert_has(driver, batch)


@pytest.mark.parametrize("seed", range(5))
async def test_a_cancelled_write_is_repeated_after_a_restart(driver: Driver, seed: int) -> None:
    """Cancelled at any moment, no record is lost, and none is there twice if the sink promises that."""
    rng = random.Random(seed)
    state, batches = None, [mapped(300, seed) for seed in range(5)]
    for batch in batches:
        async with Session(driver, state) as session:
            state = session.state
            write = asyncio.create_task(session.sink.write(batch))
            await asyncio.wait([write], timeout=rng.choice((0, 0.0005, 0.002, 0.01)))
            write.cancel()
            await asyncio.gather(write, return_exceptions=True)
        async with Session(driver, state) as session:
            await session.write(batch)
        state = session.state
    found = await driver.read()
    assert set(found) == set(driver.expected([body for batch in batches for body in batch.bodies]))
    if driver.once:
        await assert_has(driver, *batches)
