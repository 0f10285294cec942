"""Batching: what follows the cursor, cut by records, bytes and linger, each record once and in order."""

import asyncio
import time
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from btfeed.delivery.batching import MAX_POSTS, Batcher, DeliverySettings, FilterSettings, Slice
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.journal.base import Cursor, JournalUnavailable
from btfeed.telemetry.metrics import Metrics
from tests.support import posts
from tests.support.fakes import FakeJournal, mapped, mapper, post

SOON = 0.01


class Bench:
    """A batcher over a journal in memory. `held_back` counts what the filter does."""

    def __init__(self, filter: FilterSettings | None = None, unexpected: str = "report", **settings: object) -> None:
        self.settings = DeliverySettings.model_validate({"linger": "0s"} | settings)
        self.filter = filter or FilterSettings()
        self.journal = FakeJournal()
        self.feed = MappedPosts(mapper(unexpected=unexpected), Metrics(), sinks=1)
        self.held_back = 0
        self.restart(Cursor(1))

    def restart(self, cursor: Cursor) -> None:
        self.batcher = Batcher(self.journal, self.feed, self.settings, self.filter, cursor, self._filtered)

    def _filtered(self, number: int) -> None:
        self.held_back += number

    async def post(self, occurrences: int, seed: int = 0, received: float | None = None) -> list[bytes]:
        await self.journal.append(post(posts.mixed(occurrences, seed), received))
        return mapped(occurrences, seed).bodies

    async def rest(self) -> list[Slice]:
        """All slices until nothing more comes."""
        found = []
        while part := await self.batcher.next(SOON):
            found.append(part)
        return found


def bodies(slices: list[Slice]) -> list[bytes]:
    return [body for part in slices for body in part.batch.bodies]


async def test_batches_are_cut_by_records() -> None:
    """Small posts are joined, and none holds more than max_records."""
    bench = Bench(max_records=10)
    expected = [body for seed in range(7) for body in await bench.post(4, seed)]
    slices = await bench.rest()
    assert [len(part.batch) for part in slices] == [10, 10, 8]
    assert bodies(slices) == expected
    assert [part.end for part in slices] == [Cursor(3, 2), Cursor(6), Cursor(8)]


async def test_batches_are_cut_by_bytes() -> None:
    """None holds more than max_bytes, but for a record that is alone."""
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
    """Every ordinal is found again, the one behind the last too."""
    bench = Bench()
    expected = await bench.post(10) + await bench.post(2, 1)
    bench.restart(Cursor(1, ordinal))
    assert bodies(await bench.rest()) == expected[ordinal:]


async def test_a_batch_lingers_from_the_receipt_of_its_oldest_post() -> None:
    """A fresh post waits for others; one that was received long ago is written at once."""
    bench = Bench(linger="300ms")
    await bench.post(1)
    started = time.monotonic()
    task = asyncio.create_task(bench.batcher.next(5))
    await bench.post(1, 1)
    part = await task
    assert part
    assert (len(part.batch), time.monotonic() - started >= 0.29) == (2, True)
    await bench.post(1, 2, received=time.time() - 60)
    started = time.monotonic()
    assert await bench.batcher.next(5)
    assert time.monotonic() - started < 0.29


async def test_a_clock_that_was_set_back_does_not_make_it_linger() -> None:
    """A post that seems to come from the future waits no longer than linger."""
    bench = Bench(linger="20ms")
    await bench.post(1, received=time.time() + 3600)
    assert await asyncio.wait_for(bench.batcher.next(5), 5)


async def test_nothing_comes_within_its_patience() -> None:
    """None where the journal has nothing for so long; what comes later is found later."""
    bench = Bench()
    assert await bench.batcher.next(SOON) is None
    await bench.post(2)
    assert len(await bench.rest()) == 1


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
    """By category, application and name; what is held back is counted, and the cursor passes it."""
    bench = Bench(FilterSettings.model_validate(filter))
    everything = await bench.post(12) + await bench.post(12, 1)
    slices = await bench.rest()
    assert bodies(slices) == [body for body in everything if wanted in body]
    assert bench.held_back == 24 - len(bodies(slices))
    assert slices[-1].end == Cursor(3)


async def test_what_a_filter_takes_does_not_hold_the_rest_in_memory() -> None:
    """A few records of each of many large posts are copied, so that those posts can go."""
    bench = Bench(FilterSettings(category=["visit"]))
    await bench.post(30)
    (part,) = await bench.rest()
    assert sum(memoryview(piece.obj).nbytes for piece in part.batch.parts) == part.batch.nbytes


async def test_a_long_stretch_that_is_held_back_is_passed_in_steps() -> None:
    """So that the cursor is saved on the way, and dead letters are looked for."""
    bench = Bench(FilterSettings(application=["another"]))
    entry = post(posts.mixed(1))
    for _ in range(MAX_POSTS + 5):
        await bench.journal.append(entry)
    assert [part.end.seq for part in await bench.rest()] == [MAX_POSTS + 1, MAX_POSTS + 6]


async def test_dead_letters_fill_a_slice_too() -> None:
    """A backlog of nothing but dead letters takes no more memory than one of records."""
    bench = Bench(unexpected="dead-letter", max_records=6)
    for _ in range(20):
        await bench.journal.append(post(posts.sample_purepath()))
    assert [(len(part.batch), len(part.dead_letters)) for part in await bench.rest()] == [(0, 6)] * 3 + [(0, 2)]


async def test_gaps_in_the_journal_are_passed() -> None:
    """Posts that were set aside leave gaps, before, between and in the middle of what was being read."""
    bench = Bench(max_records=3)
    first = await bench.post(2)
    await bench.journal.append(post(posts.mixed(4, 1)), seq=7)
    slices = await bench.rest()
    assert bodies(slices) == first + mapped(4, 1).bodies
    assert slices[-1].end == Cursor(8)
    bench.restart(Cursor(3, 5))
    assert bodies(await bench.rest()) == mapped(4, 1).bodies


async def test_a_journal_whose_last_posts_are_gone_is_not_asked_all_the_time() -> None:
    """Its head is past the cursor and it has nothing to read: it is looked at now and then, and patience holds."""
    bench = Bench()
    await bench.post(1)
    bench.journal.entries.clear()
    assert await asyncio.wait_for(bench.batcher.next(0.3), 5) is None
    assert 1 < bench.journal.reads < 20
    expected = await bench.post(2, 1)
    assert bodies(await bench.rest()) == expected


async def test_a_journal_that_fails_in_the_middle_loses_nothing() -> None:
    """What was taken before is a slice; then the error comes; then it goes on behind that slice."""
    bench = Bench(linger="1s")
    expected = await bench.post(3)
    bench.batcher._entries.extend(await bench.journal.read(1, 1))
    bench.journal.failing = {"read"}
    expected += await bench.post(2, 1)
    part = await bench.batcher.next(SOON)
    assert part
    assert part.end == Cursor(2)
    with pytest.raises(JournalUnavailable):
        await bench.batcher.next(SOON)
    bench.journal.failing = set()
    assert bodies([part, *await bench.rest()]) == expected


@pytest.mark.parametrize("settings", [{"max_bytes": "0B"}, {"retry_initial": "0s"}, {"retry_max": "0s"}, {"max_age": "0s"}])
def test_settings_with_which_nothing_would_be_delivered_are_refused(settings: dict[str, object]) -> None:
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
)
def test_slices_are_all_that_follows_the_cursor_once_and_in_order(
    sizes: list[int], max_records: int, max_bytes: int, start: tuple[int, int], restarts: set[int]
) -> None:
    """From any cursor, with restarts at any slice: their concatenation is what follows it, and each fits."""

    async def check() -> None:
        bench = Bench(max_records=max_records, max_bytes=f"{max_bytes}B")
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
        assert bodies(slices) == expected

    asyncio.run(check())
