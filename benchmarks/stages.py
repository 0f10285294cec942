"""What an occurrence costs at each stage, each in a separate process, on one core, between two parses.

    parse            upb's parser alone: the baseline itself, measured like a case
    limits           the plain `admission.admit`, without the parse that it contains
    limits, native   the same by the native module, which needs no parse
    digest           BLAKE2b of the body, from which event.id is made
    digest, native   the same, eight posts at a time
    journal append   until posts are durable, in group commits, with their digests
    journal read     as deliveries read, from a reopened journal
    validate         the checks against the field table: once for each occurrence
    encode           msgspec alone, of finished records
    map              all of the plain `PlainMapper.map`: parse, validate, map, encode
    map, native      the same by the native transcoder
    batch            joining and slicing mapped posts to a sink's batches
    sink: NAME       the writes of a sink to a black hole, or to the disk

To add a stage, add a function to STAGES: an asynchronous context manager that prepares the work, and yields the function to
measure and a function whose cost is subtracted, or None.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from benchmarks.load import Load
from benchmarks.measuring import Baseline, pin, quiet
from btfeed import config, native
from btfeed.app import parts
from btfeed.journal.sqlite.journal import SqliteJournal
from btfeed.journal.sqlite.settings import SqliteSettings
from btfeed.posts import admission, post
from btfeed.posts.bt_pb2 import BusinessTransactions
from btfeed.records import plain_mapper
from btfeed.records.mapper import NativeMapper, PostMapper, create_mapper
from btfeed.records.plain_mapper import PlainMapper
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings, Violation, violations
from btfeed.telemetry.metrics import Metrics
from sinks.base import Sink
from sinks.batch import Batch

MIN_CPU = 0.03
"""The least seconds of CPU of a round: short work is repeated."""
MAX_OCCURRENCES = 100_000
GROUP = 8
"""About how many posts a commit of the journal has if they come as fast as they can."""
DEFAULTS = (RecordSettings(), ValidationSettings())

Work = Callable[[], Awaitable[None]]
Stage = Callable[["Bench"], AbstractAsyncContextManager[tuple[Work, Work | None]]]


@dataclass(frozen=True, slots=True)
class Bench:
    """load: the posts. directory: an empty one. sink: the table of the sink to measure."""

    load: Load
    directory: Path
    sink: Mapping[str, Any] | None = None


def _plain(work: Callable[[bytes], object]) -> Stage:
    """A stage of one call for each post."""

    @asynccontextmanager
    async def stage(bench: Bench) -> AsyncIterator[tuple[Work, None]]:
        async def turn() -> None:
            for body in bench.load.bodies:
                work(body)

        yield turn, None

    return stage


@asynccontextmanager
async def _limits(bench: Bench) -> AsyncIterator[tuple[Work, Work]]:
    limits = admission.Limits.of(MAX_OCCURRENCES)

    async def admit() -> None:
        found = 0
        for body in bench.load.bodies:
            found += admission.admit_plain(body, limits)
        assert found == bench.load.occurrences

    async def parse() -> None:
        for body in bench.load.bodies:
            post.parse(body)

    yield admit, parse


@asynccontextmanager
async def _digests(bench: Bench) -> AsyncIterator[tuple[Work, None]]:
    bodies = bench.load.bodies
    groups = [bodies[start : start + GROUP] for start in range(0, len(bodies), GROUP)]

    async def turn() -> None:
        for group in groups:
            post.digests(group)

    yield turn, None


@asynccontextmanager
async def _validate(bench: Bench) -> AsyncIterator[tuple[Work, None]]:
    """Repeats the calls that a mapper made."""
    asked: list[tuple[Any, ...]] = []

    def note(*arguments: Any) -> list[Violation]:
        asked.append(arguments)
        return violations(*arguments)

    with patch.object(plain_mapper, "violations", note):
        map_posts(bench.load, PlainMapper(*DEFAULTS))

    async def turn() -> None:
        for arguments in asked:
            violations(*arguments)

    yield turn, None


@asynccontextmanager
async def _encode(bench: Bench) -> AsyncIterator[tuple[Work, None]]:
    """Encodes the records again that a mapper encoded."""
    records: list[Any] = []
    encode = msgspec.json.Encoder().encode

    def note(record: Any) -> bytes:
        records.append(record)
        return encode(record)

    with patch.object(plain_mapper, "_to_json", note):
        map_posts(bench.load, PlainMapper(*DEFAULTS))
    assert len(records) == bench.load.occurrences

    async def turn() -> None:
        for record in records:
            encode(record)

    yield turn, None


def map_posts(load: Load, mapper: PostMapper) -> list[Batch]:
    batches = [mapper.map(body, post.digest(body)).batch for body in load.bodies]
    assert sum(map(len, batches)) == load.occurrences
    return batches


def _mapping(made: Callable[[RecordSettings, ValidationSettings], PostMapper]) -> Stage:
    """The first turn, which is not measured, compiles the plans."""

    @asynccontextmanager
    async def stage(bench: Bench) -> AsyncIterator[tuple[Work, None]]:
        mapper = made(*DEFAULTS)
        digests = [post.digest(body) for body in bench.load.bodies]

        async def turn() -> None:
            found = 0
            for body, digest in zip(bench.load.bodies, digests, strict=True):
                found += len(mapper.map(body, digest).batch)
            assert found == bench.load.occurrences

        yield turn, None

    return stage


@asynccontextmanager
async def _append(bench: Bench) -> AsyncIterator[tuple[Work, None]]:
    posts = [post.Post(body, 0, "peer") for body in bench.load.bodies]
    async with _journal(bench.directory) as journal:

        async def turn() -> None:
            await asyncio.gather(*map(journal.append, posts))

        yield turn, None


@asynccontextmanager
async def _read(bench: Bench) -> AsyncIterator[tuple[Work, None]]:
    """The journal is reopened before it is read, so that it has nothing in memory."""
    async with _journal(bench.directory) as journal:
        await asyncio.gather(*(journal.append(post.Post(b, 0, "peer")) for b in bench.load.bodies))
    async with _journal(bench.directory) as journal:

        async def turn() -> None:
            seq, found = 1, 0
            while found < len(bench.load.bodies):
                entries = await journal.outlet("sink").read(seq, 2**20)
                seq, found = entries[-1].seq + 1, found + len(entries)

        yield turn, None


@asynccontextmanager
async def _journal(directory: Path) -> AsyncIterator[SqliteJournal]:
    settings = SqliteSettings(directory=str(directory / "journal"))
    journal = SqliteJournal(settings, {"sink": "oldest"}, Metrics(), MAX_OCCURRENCES)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


@asynccontextmanager
async def _batch(bench: Bench) -> AsyncIterator[tuple[Work, None]]:
    posts = map_posts(bench.load, create_mapper(*DEFAULTS))
    delivery = config.parse({"sinks": {"s": {"type": "file"}}}, {}).sinks["s"].common.delivery

    async def turn() -> None:
        _batches(posts, delivery.max_records, delivery.max_bytes)

    yield turn, None


def _batches(posts: list[Batch], max_records: int, max_bytes: int) -> list[Batch]:
    """What btfeed/delivery/batching.py makes of posts that wait already."""
    found: list[Batch] = []
    waiting: list[Batch] = []
    records = nbytes = 0
    for one in posts:
        rest = one
        while len(rest):
            take = rest.fitting(max_records - records, max_bytes - nbytes)
            if take:
                waiting.append(rest.slice(0, take))
                records, nbytes = records + take, nbytes + waiting[-1].nbytes
                rest = rest.slice(take, len(rest))
            if len(rest):
                found.append(Batch.concat(waiting))
                waiting, records, nbytes = [], 0, 0
    return [*found, Batch.concat(waiting)]


async def write_all(sink: Sink, batches: Sequence[Batch], in_flight: int) -> None:
    """Write each batch once, `in_flight` at a time. The sink must take them whole."""
    left = iter(batches)

    async def worker() -> None:
        for batch in left:
            result = await sink.write(batch)
            assert not result.refused
            assert not result.retry

    await asyncio.gather(*(worker() for _ in range(in_flight)))


@asynccontextmanager
async def _sink(bench: Bench) -> AsyncIterator[tuple[Work, None]]:
    """Writes all batches, as many at a time as delivery has in flight."""
    assert bench.sink
    found = config.parse({"sinks": {"bench": bench.sink}}, {}).sinks["bench"]
    delivery = found.common.delivery
    batches = _batches(map_posts(bench.load, create_mapper(*DEFAULTS)), delivery.max_records, delivery.max_bytes)
    sink = parts.create_sink("bench", found)
    await sink.open(None)

    async def turn() -> None:
        await write_all(sink, batches, delivery.in_flight)

    try:
        yield turn, None
    finally:
        await sink.close()


STAGES: dict[str, Stage] = {
    "parse": _plain(BusinessTransactions.FromString),
    "limits": _limits,
    "digest": _plain(post.digest),
    "journal append": _append,
    "journal read": _read,
    "validate": _validate,
    "encode": _encode,
    "map": _mapping(PlainMapper),
    "batch": _batch,
}
if native.module:
    STAGES |= {
        "limits, native": _plain(lambda body: admission.admit(body, MAX_OCCURRENCES)),
        "digest, native": _digests,
        "map, native": _mapping(NativeMapper),
    }


@dataclass(frozen=True, slots=True)
class Measured:
    """samples: one for each round. occurrences: how many were processed, with those of the warm-up."""

    samples: list[dict[str, float]]
    occurrences: int


def measure(path: Path, directory: Path, name: str, sink: Mapping[str, Any] | None, rounds: int) -> Measured:
    """Call this in a process that does nothing else. name: one of STAGES, or that of `sink`."""
    pin(0)
    quiet()
    return asyncio.run(_measure(Bench(Load.read(path), directory, sink), name, rounds))


async def _measure(bench: Bench, name: str, rounds: int) -> Measured:
    baseline = Baseline(bench.load.bodies, bench.load.occurrences)
    samples = []
    async with (_sink if bench.sink else STAGES[name])(bench) as (turn, off):
        await _cpu(turn)  # warm-up
        times = max(1, round(MIN_CPU / max(1e-6, await _cpu(turn))))
        each = 1e6 / times / bench.load.occurrences
        before = baseline.measure()
        for _ in range(rounds):
            started = time.perf_counter()
            spent = await _cpu(turn, times)
            took = time.perf_counter() - started
            if off:
                spent -= await _cpu(off, times)
            samples.append(baseline.round(spent * each, before).sample() | {"wall_us": took * each})
            before = baseline.last
    return Measured(samples, (2 + rounds * times) * bench.load.occurrences)


async def _cpu(work: Work, times: int = 1) -> float:
    """Seconds of CPU, with those of threads."""
    started = time.process_time()
    for _ in range(times):
        await work()
    return time.process_time() - started


async def allocations(bench: Bench, name: str, counted: Callable[[], int]) -> float:
    """Memory allocations for an occurrence. counted: returns how many there were so far."""
    async with (_sink if bench.sink else STAGES[name])(bench) as (turn, off):

        async def count(work: Work) -> int:
            await work()
            before = counted()
            await work()
            return counted() - before

        found = await count(turn) - (await count(off) if off else 0)
    return found / bench.load.occurrences
