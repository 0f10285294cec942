"""Batching: what follows the cursor, cut by records, bytes and linger, each record once and in order."""

import asyncio
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from btfeed.delivery.batching import LOOK, MAX_POSTS, Batcher, Slice
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.settings import DeliverySettings, FilterSettings
from btfeed.journal.base import Cursor, Entry, JournalUnavailable
from btfeed.journal.memory import MemoryJournal
from btfeed.telemetry.metrics import Metrics
from tests.support import posts
from tests.support.clock import FakeClock, FastClock, settle
from tests.support.fakes import FaultyOutlet, mapped, mapper, post
from tests.support.harness import DEADLINE

SOON = 1.0
"""Seconds to wait for a slice, by a fast clock."""


class Bench:
    """A batcher over a journal in memory. held_back: how many records the filter held back."""

    def __init__(
        self,
        filter: FilterSettings | None = None,
        unexpected: str = "report",
        clock: FakeClock | None = None,
        **settings: object,
    ) -> None:
        self.settings = DeliverySettings.model_validate({"linger": "0s"} | settings)
        self.filter = filter or FilterSettings()
        self.clock = clock or FastClock()
        self.journal = MemoryJournal({})
        self.outlet = FaultyOutlet(self.journal, "sink")
        self.mapped_posts = MappedPosts(mapper(unexpected=unexpected), Metrics(), sinks=1)
        self.held_back = 0
        self.restart(Cursor(1))

    def restart(self, cursor: Cursor) -> None:
        self.batcher = Batcher(
            self.outlet, self.mapped_posts, self.settings, self.filter, cursor, self._filtered, clock=self.clock
        )

    def _filtered(self, number: int) -> None:
        self.held_back += number

    async def post(self, occurrences: int, seed: int = 0, received: float | None = None) -> list[bytes]:
        await self.journal.append(post(posts.mixed(occurrences, seed), received, self.clock))
        return mapped(occurrences, seed).bodies

    async def rest(self) -> list[Slice]:
        """All slices until no more come."""
        found = []
        while part := await self.batcher.next(SOON):
            found.append(part)
        return found


def bodies(slices: list[Slice]) -> list[bytes]:
    return [body for part in slices for body in part.batch.bodies]


async def test_batches_are_cut_by_records() -> None:
    """Small posts are joined, and no batch has more than max_records."""
    bench = Bench(max_records=10)
    expected = [body for seed in range(7) for body in await bench.post(4, seed)]
    slices = await bench.rest()
    assert [len(part.batch) for part in slices] == [10, 10, 8]
    assert bodies(slices) == expected
    assert [part.end for part in slices] == [Cursor(3, 2), Cursor(6), Cursor(8)]


async def test_batches_are_cut_by_bytes() -> None:
    """No batch has more than max_bytes, unless it is a single record."""
    bench = Bench(max_bytes="2000B")
    expected = await bench.post(10) + await bench.post(10, 1)
    slices = await bench.rest()
    assert bodies(slices) == expected
    assert all(part.batch.nbytes <= 2000 for part in slices)
    assert len(slices) < 20
    bench = Bench(max_bytes="1B")
    await bench.post(3)
    await bench.post(2, 1)
    assert [len(part.batch) for part in await bench.rest()] == [1] * 5


async def test_a_post_larger_than_a_batch_is_cut_and_the_cursor_has_its_ordinal() -> None:
    """Each slice ends in the middle of the post, and a restart goes on from there."""
    bench = Bench(max_records=4)
    expected = await bench.post(10)
    first = await bench.batcher.next(SOON)
    assert first
    assert first.end == Cursor(1, 4)
    bench.restart(first.end)
    assert bodies([first, *await bench.rest()]) == expected


@pytest.mark.parametrize("ordinal", [0, 1, 5, 9, 10])
async def test_a_restart_in_the_middle_of_a_post(ordinal: int) -> None:
    """At any ordinal, including the one behind the last."""
    bench = Bench()
    expected = await bench.post(10) + await bench.post(2, 1)
    bench.restart(Cursor(1, ordinal))
    assert bodies(await bench.rest()) == expected[ordinal:]


async def test_a_batch_lingers_from_the_receipt_of_its_oldest_post() -> None:
    """It waits for other posts until `linger` has passed since then."""
    clock = FakeClock()
    bench = Bench(clock=clock, linger="30s")
    await bench.post(1)
    await clock.advance(10)
    slicing = asyncio.create_task(bench.batcher.next(5))
    await settle()
    await bench.post(1, 1)
    await settle()
    await clock.advance(19)
    assert not slicing.done()
    await clock.advance(1)
    part = await slicing
    assert part
    assert len(part.batch) == 2


async def test_posts_that_fill_a_batch_do_not_linger() -> None:
    """Judged by the posts before them."""
    clock = FakeClock()
    bench = Bench(clock=clock, linger="30s", max_records=4)
    await bench.post(2)
    slicing = asyncio.create_task(bench.batcher.next(5))
    await settle()
    await clock.advance(30)
    assert len((await _slice(slicing)).batch) == 2
    await bench.post(2, 1)
    slicing = asyncio.create_task(bench.batcher.next(5))
    await settle()
    assert bench.mapped_posts._begun == {0: 1}, "mapped before the batch was due"
    await bench.post(2, 2)
    await clock.advance(LOOK)
    assert len((await _slice(slicing)).batch) == 4


async def _slice(slicing: "asyncio.Task[Slice | None]") -> Slice:
    part = await asyncio.wait_for(slicing, DEADLINE)
    assert part
    return part


async def test_what_was_read_is_delivered_if_the_journal_fails_meanwhile() -> None:
    """When the batch is due."""
    clock = FakeClock()
    bench = Bench(clock=clock, linger="30s")
    await bench.post(1)
    slicing = asyncio.create_task(bench.batcher.next(5))
    await clock.advance(30)
    await _slice(slicing)
    expected = await bench.post(1, 1)
    slicing = asyncio.create_task(bench.batcher.next(5))
    await settle()
    bench.outlet.failing = {"read"}
    await clock.advance(30)
    assert (await _slice(slicing)).batch.bodies == expected


async def test_an_old_post_does_not_linger() -> None:
    """One that was received longer ago than `linger` is in a batch at once."""
    bench = Bench(clock=FakeClock(), linger="30s")
    await bench.post(1, received=bench.clock.time() - 60)
    assert await asyncio.wait_for(bench.batcher.next(5), DEADLINE)


async def test_a_post_from_the_future_lingers_from_now() -> None:
    """After the system's clock was set back, a post waits no longer than `linger`."""
    clock = FakeClock()
    bench = Bench(clock=clock, linger="30s")
    await bench.post(1, received=clock.time() + 3600)
    slicing = asyncio.create_task(bench.batcher.next(5))
    await settle()
    await clock.advance(29)
    assert not slicing.done()
    await clock.advance(1)
    assert await slicing


async def test_next_returns_none_after_its_patience() -> None:
    """If the journal gets no post in that time. Later posts are found by later calls."""
    clock = FakeClock()
    bench = Bench(clock=clock)
    slicing = asyncio.create_task(bench.batcher.next(5))
    await clock.advance(4.9)
    assert not slicing.done()
    await clock.advance(0.1)
    assert await slicing is None
    await bench.post(2)
    assert await bench.batcher.next(5)


@pytest.mark.parametrize(
    ("filter", "wanted"),
    [
        ({"category": ["visit"]}, b'"event.category":"visit"'),
        ({"name": ["Checkout by page"]}, b'"event.name":"Checkout by page"'),
        ({"application": ["easyTravel"]}, b'"appmon.application":"easyTravel"'),
        ({"application": ["another"]}, b"nothing has this"),
        ({"category": ["visit", "purepath"], "name": ["Visits (all)"]}, b'"event.category":"visit"'),
    ],
)
async def test_a_filter_takes_what_matches_each_list(filter: dict[str, object], wanted: bytes) -> None:
    """By category, application and name. What is held back is counted, and the cursor passes it."""
    bench = Bench(FilterSettings.model_validate(filter))
    everything = await bench.post(12) + await bench.post(12, 1)
    slices = await bench.rest()
    assert bodies(slices) == [body for body in everything if wanted in body]
    assert bench.held_back == 24 - len(bodies(slices))
    assert slices[-1].end == Cursor(3)


async def test_filtered_batches_do_not_keep_whole_posts_in_memory() -> None:
    """A few records of a large post are copied, so that the post can be freed."""
    bench = Bench(FilterSettings(category=["visit"]))
    await bench.post(30)
    (part,) = await bench.rest()
    assert sum(memoryview(piece.obj).nbytes for piece in part.batch.parts) == part.batch.nbytes


async def test_the_cursor_moves_although_everything_is_held_back() -> None:
    """In steps of MAX_POSTS, so that the cursor is saved on the way."""
    bench = Bench(FilterSettings(application=["another"]))
    entry = post(posts.mixed(1))
    for _ in range(MAX_POSTS + 5):
        await bench.journal.append(entry)
    assert [part.end.seq for part in await bench.rest()] == [MAX_POSTS + 1, MAX_POSTS + 6]


async def test_dead_letters_fill_a_slice_too() -> None:
    """They count toward max_records, so that a backlog of dead letters takes no more memory than one of records."""
    bench = Bench(unexpected="dead-letter", max_records=6)
    for _ in range(20):
        await bench.journal.append(post(posts.sample_purepath()))
    assert [(len(part.batch), len(part.dead_letters)) for part in await bench.rest()] == [(0, 6)] * 3 + [(0, 2)]


class GappyOutlet(FaultyOutlet):
    """An outlet whose second post has number 7, and whose posts can be gone although `wait` announces them."""

    gone = False

    async def read(self, seq: int, max_bytes: int) -> Sequence[Entry]:
        found = await super().read(1, max_bytes)
        numbered = [Entry(seq, entry.post, entry.digest) for seq, entry in zip((1, 7), found, strict=False)]
        return [] if self.gone else [entry for entry in numbered if entry.seq >= seq]

    async def wait(self, seq: int) -> None:
        await super().wait(2 if 1 < seq < 8 else seq)


def _with_gaps(bench: Bench) -> GappyOutlet:
    outlet = bench.outlet = GappyOutlet(bench.journal, "sink")
    bench.restart(Cursor(1))
    return outlet


async def test_gaps_in_the_journal_are_passed() -> None:
    """Missing numbers between two posts, and a cursor at one of them."""
    bench = Bench(max_records=3)
    _with_gaps(bench)
    expected = await bench.post(2) + await bench.post(4, 1)
    slices = await bench.rest()
    assert bodies(slices) == expected
    assert slices[-1].end == Cursor(8)
    bench.restart(Cursor(3, 5))
    assert bodies(await bench.rest()) == expected[2:]


async def test_a_journal_that_announces_a_post_and_has_none_is_read_now_and_then() -> None:
    """Its last posts were damaged. It is not read in a busy loop, and `next` still returns after its patience."""
    clock = FakeClock()
    bench = Bench(clock=clock)
    outlet = _with_gaps(bench)
    expected = await bench.post(1)
    outlet.gone = True
    slicing = asyncio.create_task(bench.batcher.next(0.3))
    await clock.advance(1)
    assert await slicing is None
    assert 1 < outlet.calls.count("read") < 20
    outlet.gone = False
    part = await bench.batcher.next(5)
    assert part
    assert part.batch.bodies == expected


async def test_a_journal_that_fails_in_the_middle_loses_nothing() -> None:
    """What was taken before is a slice, then the error is raised, then batching goes on behind that slice."""
    bench = Bench(linger="1s")
    expected = await bench.post(3)
    bench.batcher._entries.extend(await bench.outlet.read(1, 1))
    bench.outlet.failing = {"read"}
    expected += await bench.post(2, 1)
    part = await bench.batcher.next(SOON)
    assert part
    assert part.end == Cursor(2)
    with pytest.raises(JournalUnavailable):
        await bench.batcher.next(SOON)
    bench.outlet.failing = set()
    assert bodies([part, *await bench.rest()]) == expected


@pytest.mark.parametrize("settings", [{"max_bytes": "0B"}, {"retry_initial": "0s"}, {"retry_max": "0s"}, {"max_age": "0s"}])
def test_settings_that_would_deliver_nothing_are_rejected(settings: dict[str, object]) -> None:
    """Batches of no bytes, retries without a pause, records that are always too old."""
    with pytest.raises(ValidationError, match="greater than"):
        DeliverySettings.model_validate(settings)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), max_size=12),
    max_records=st.integers(1, 15),
    max_bytes=st.integers(1, 6000),
    start=st.tuples(st.integers(1, 12), st.integers(0, 12)),
    restarts=st.sets(st.integers(0, 40)),
    category=st.sampled_from([[], ["visit"]]),
)
def test_slices_are_all_that_follows_the_cursor_once_and_in_order(
    sizes: list[int],
    max_records: int,
    max_bytes: int,
    start: tuple[int, int],
    restarts: set[int],
    category: list[Literal["purepath", "user_action", "visit", "unknown"]],
) -> None:
    """From any cursor, with restarts at any slice: joined, they are what follows the cursor and passes the filter, and each
    one fits."""

    async def check() -> None:
        bench = Bench(FilterSettings(category=category), max_records=max_records, max_bytes=f"{max_bytes}B")
        records = [await bench.post(size, seed) for seed, size in enumerate(sizes)]
        begins = [0, *accumulate(sizes)]
        seq, ordinal = start[0], min(start[1], sizes[start[0] - 1] if start[0] <= len(sizes) else 0)
        everything = [body for bodies in records for body in bodies]
        expected = everything[begins[seq - 1] + ordinal :] if seq <= len(sizes) else []
        bench.restart(Cursor(seq, ordinal))
        slices: list[Slice] = []
        while part := await bench.batcher.next(0):
            slices.append(part)
            assert len(part.batch) <= max_records
            assert part.batch.nbytes <= max_bytes or len(part.batch) == 1
            if len(slices) in restarts:
                bench.restart(part.end)
        assert bodies(slices) == [body for body in expected if not category or b'"event.category":"visit"' in body]

    asyncio.run(check())
