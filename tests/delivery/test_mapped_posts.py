"""Mapped posts: each post is mapped once for the sinks near the head, within a budget, and counted once."""

import asyncio
from threading import Barrier, Event
from typing import Any

import pytest

from btfeed.delivery.mapped_posts import MappedPosts, MappedRun
from btfeed.journal.base import Entry
from btfeed.records.mapper import PostMapper
from btfeed.records.result import MappingResult, Posts, map_each
from btfeed.records.schema import CATEGORIES
from btfeed.telemetry.metrics import Metrics
from tests.journal.journals import entries
from tests.support import posts
from tests.support.fakes import mapper, post


class CountingMapper:
    """Counts what is mapped, and breaks on bodies in `broken`."""

    threads = 1

    def __init__(self, inner: PostMapper) -> None:
        self.inner = inner
        self.mapped: list[bytes] = []
        self.broken: set[bytes] = set()

    def map(self, body: bytes, digest: bytes) -> MappingResult:
        self.mapped.append(body)
        if body in self.broken:
            raise ZeroDivisionError("a bug")
        return self.inner.map(body, digest)

    def map_all(self, posts: Posts, room: int) -> list[MappingResult | Exception]:
        return map_each(self.map, posts, room)


class Bench:
    def __init__(self, budget: int = 2**20, unexpected: str = "report", sinks: int = 3, **groups: int) -> None:
        self.mapper = CountingMapper(mapper(unexpected=unexpected))
        self.metrics = Metrics()
        self.mapped_posts = MappedPosts(self.mapper, self.metrics, sinks, budget, **groups)

    async def map(self, seq: int, *bodies: bytes, partition: int = 0) -> MappedRun:
        """Ask for the first of them, which has number `seq`. The others follow it."""
        entry, *following = entries(seq, list(map(post, bodies)))
        return await self.mapped_posts.map(partition, entry, following)

    def kept(self) -> list[int]:
        """The numbers of the posts that are kept, the least recently used first."""
        return [seq for _, seq in self.mapped_posts._posts]

    def total(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"btfeed_{name}_total", labels) or 0.0


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Any:
    found = Bench(**getattr(request, "param", {}))
    yield found
    found.mapped_posts.close()


async def test_two_sinks_share_one_mapping(bench: Bench) -> None:
    """They get the same object, whether they ask at the same time or one after the other."""
    first, second = await asyncio.gather(bench.map(1, posts.mixed(5)), bench.map(1, posts.mixed(5)))
    assert first is second is await bench.map(1, posts.mixed(5))
    assert len(bench.mapper.mapped) == 1


async def test_a_cancelled_sink_does_not_cancel_the_mapping(bench: Bench) -> None:
    """Another sink that waits for it gets the post."""
    gone = asyncio.create_task(bench.map(1, posts.mixed(5)))
    other = asyncio.create_task(bench.map(1, posts.mixed(5)))
    await asyncio.sleep(0)
    gone.cancel()
    assert len((await other).batch) == 5
    assert gone.cancelled()
    assert len(bench.mapper.mapped) == 1


GROUP = [posts.mixed(5, seed) for seed in range(10)]


@pytest.mark.parametrize("bench", [{"group_bytes": sum(map(len, GROUP[:3])) - 1}], indirect=True)
async def test_small_posts_are_mapped_together(bench: Bench) -> None:
    """As many as make a group are mapped at once, and are ready when they are asked for."""
    assert len((await bench.map(1, *GROUP)).batch) == 5
    assert bench.mapper.mapped == GROUP[:3]
    assert [len((await bench.map(seq, GROUP[seq - 1])).batch) for seq in (2, 3)] == [5, 5]
    assert bench.mapper.mapped == GROUP[:3]


@pytest.mark.parametrize("bench", [{"group_mapped": 1}], indirect=True)
async def test_a_group_ends_when_its_records_take_too_much(bench: Bench) -> None:
    """The rest is mapped when it is asked for, also by a sink that was already waiting, and counted once."""
    bodies = [posts.sample_purepath()] * 3
    found = await asyncio.gather(bench.map(1, *bodies), bench.map(2, *bodies[1:]))
    assert [len(one.batch) for one in found] == [1, 1]
    assert len(bench.mapper.mapped) == 2
    assert bench.total("occurrences", category="purepath") == 2


@pytest.mark.parametrize("bench", [{"sinks": 2}], indirect=True)
async def test_a_post_is_dropped_when_all_sinks_had_it(bench: Bench) -> None:
    """A sink that asks for it after all gets it mapped again."""
    bodies = [posts.mixed(5, seed) for seed in range(2)]
    await bench.map(1, *bodies)
    await bench.map(2, bodies[1])
    assert bench.kept() == [1, 2]
    await bench.map(1, bodies[0])
    assert bench.kept() == [2]
    await bench.map(2, bodies[1])
    assert (bench.kept(), bench.mapped_posts._had, bench.mapped_posts._total) == ([], {}, 0)
    assert len((await bench.map(1, bodies[0])).batch) == 5
    assert len(bench.mapper.mapped) == 3


def _runs(sinks: int = 2) -> tuple[MappedPosts, Metrics, list[Entry]]:
    """Mapped posts of the mapper that joins posts, and six posts of three records."""
    metrics = Metrics()
    found = entries(1, [post(posts.mixed(3, seed)) for seed in range(6)])
    return MappedPosts(mapper(), metrics, sinks), metrics, found


async def test_sinks_share_a_run_of_posts() -> None:
    """Also one that begins, or for now ends, in the middle. It is kept until both have taken its last post."""
    mapped_posts, metrics, asked = _runs()
    run = await mapped_posts.map(0, asked[0], asked[1:])
    assert list(run.seqs) == [1, 2, 3, 4, 5, 6]
    assert list(run.ends) == [3, 6, 9, 12, 15, 18]
    for start, stop, kept in ((2, 4, 1), (4, 5, 1), (5, 6, 0)):
        assert run is await mapped_posts.map(0, asked[start], asked[start + 1 : stop])
        assert len(mapped_posts._posts) == kept
    assert (mapped_posts._runs, mapped_posts._had, mapped_posts._total) == ({}, {}, 0)
    assert sum(metrics.occurrences.labels(category)._value.get() for category in CATEGORIES) == 18
    mapped_posts.close()


async def test_the_posts_of_a_run_count_for_their_servers() -> None:
    """Each with its own occurrences, as if it had come alone."""
    metrics = Metrics()
    bodies = [posts.mixed(size, seed) for seed, size in enumerate((3, 0, 4, 5))]
    bodies[2] = bodies[2].replace(b"appmon-01", b"appmon-02")
    asked = entries(1, [post(body, 1000.0 + at) for at, body in enumerate(bodies)])
    together, alone = MappedPosts(mapper(), metrics), Bench()
    assert len((await together.map(0, asked[0], asked[1:])).seqs) == 4
    for entry in asked:
        await alone.mapped_posts.map(0, entry)
    assert metrics.details.sources == alone.metrics.details.sources
    assert [source.posts for source in metrics.details.sources.values()] == [2, 1]
    together.close()
    alone.mapped_posts.close()


async def test_a_run_ends_before_what_is_mapped_already() -> None:
    """And posts that are mapped again are counted once, next to new ones."""
    mapped_posts, metrics, asked = _runs(sinks=1)
    await mapped_posts.map(0, asked[2], asked[3:4])
    both = await asyncio.gather(mapped_posts.map(0, asked[0], asked[1:]), mapped_posts.map(0, asked[4], asked[5:]))
    assert [list(run.seqs) for run in both] == [[1, 2, 3, 4], [5, 6]]
    assert sum(metrics.occurrences.labels(category)._value.get() for category in CATEGORIES) == 12
    mapped_posts.close()


async def test_partitions_have_numbers_of_their_own(bench: Bench) -> None:
    """Posts of the same number in two partitions are two posts, and both are counted."""
    first = await bench.map(1, posts.sample_purepath(), partition=0)
    second = await bench.map(1, posts.sample_visit(), partition=1)
    assert first is await bench.map(1, posts.sample_purepath(), partition=0)
    assert second is await bench.map(1, posts.sample_visit(), partition=1)
    assert bench.total("occurrences", category="purepath") == bench.total("occurrences", category="visit") == 1


class Meeting:
    """Maps two posts at the same time, or waits, and finishes the second one first."""

    threads = 2

    def __init__(self) -> None:
        self.inner = mapper()
        self.both, self.turn = Barrier(2, timeout=30), Event()

    def map(self, body: bytes, digest: bytes) -> MappingResult:
        self.both.wait()
        found = self.inner.map(body, digest)
        if body == posts.mixed(1):
            assert self.turn.wait(30)
        self.turn.set()
        return found

    def map_all(self, posts: Posts, room: int) -> list[MappingResult | Exception]:
        return map_each(self.map, posts, room)


async def test_posts_are_mapped_at_the_same_time_and_come_in_order() -> None:
    """Those that follow are begun together with the one that is asked for. All are counted, whichever is done first."""
    metrics = Metrics()
    both = MappedPosts(Meeting(), metrics, sinks=2, group_bytes=1)
    asked = entries(1, [post(posts.mixed(seq)) for seq in (1, 2)])
    first = await both.map(0, asked[0], asked[1:])
    assert len(first.batch) == 1
    assert [seq for _, seq in both._posts] == [2, 1]
    assert len((await both.map(0, asked[1])).batch) == 2
    counted = [metrics.occurrences.labels(category)._value.get() for category in CATEGORIES]
    assert sum(counted) == 3
    both.close()


@pytest.mark.parametrize("bench", [{"budget": 20_000}], indirect=True)
async def test_what_is_kept_stays_within_the_budget(bench: Bench) -> None:
    """What is kept does not grow with the distance between sinks: one far behind maps again what was dropped."""
    for seq in range(1, 60):
        await bench.map(seq, posts.mixed(5, seq))
        assert sum(kept.nbytes for kept in bench.mapped_posts._posts.values()) == bench.mapped_posts._total <= 20_000
    again = len(bench.mapper.mapped)
    await bench.map(59, posts.mixed(5, 59))
    assert len(bench.mapper.mapped) == again
    assert len((await bench.map(1, posts.mixed(5, 1))).batch) == 5
    assert len(bench.mapper.mapped) == again + 1


@pytest.mark.parametrize("bench", [{"budget": 20_000}], indirect=True)
async def test_posts_without_records_do_not_pile_up(bench: Bench) -> None:
    """They count toward the budget too."""
    for seq in range(1, 200):
        await bench.map(seq, posts.mixed(0))
    assert len(bench.mapped_posts._posts) < 100


@pytest.mark.parametrize("bench", [{"budget": 10}], indirect=True)
async def test_a_post_over_the_budget_is_kept_until_the_next(bench: Bench) -> None:
    """At least one post is kept, since the other sinks will ask for it soon."""
    await bench.map(1, posts.mixed(50))
    await bench.map(1, posts.mixed(50))
    await bench.map(2, posts.mixed(50, 1))
    assert bench.kept() == [2]
    assert len(bench.mapper.mapped) == 2


async def test_a_bug_in_mapping_makes_that_post_a_dead_letter(bench: Bench) -> None:
    """With its raw body, the reason, and an id. The posts around it are mapped."""
    bench.mapper.broken.add(posts.mixed(3, 1))
    good, bad, after = [await bench.map(seq, posts.mixed(3, seq)) for seq in (0, 1, 2)]
    assert [len(mapped.batch) for mapped in (good, bad, after)] == [3, 0, 3]
    (dead_letter,) = bad.dead_letters
    assert (dead_letter.kind, dead_letter.sink, dead_letter.body) == ("post", "", posts.mixed(3, 1))
    assert dead_letter.reason == "mapping failed: ZeroDivisionError('a bug')"
    assert dead_letter.event_id
    assert bench.total("dead_letters", sink="", reason="malformed") == 1


async def test_a_malformed_body_is_a_dead_letter(bench: Bench) -> None:
    """The receiver rejects such bodies, but the journal's file may contain one."""
    found = await bench.map(1, b"\x00\xff")
    assert [dead_letter.kind for dead_letter in found.dead_letters] == ["post"]
    assert "not a BusinessTransactions message" in found.dead_letters[0].reason


@pytest.mark.parametrize("bench", [{"unexpected": "dead-letter"}], indirect=True)
async def test_occurrences_that_validation_rejects_are_dead_letters(bench: Bench) -> None:
    """With their columns, and without a sink, if the policy says dead-letter."""
    found = await bench.map(1, posts.sample_purepath())
    assert [(dead_letter.kind, dead_letter.sink) for dead_letter in found.dead_letters] == [("record", "")]
    assert found.dead_letters[0].event_id
    assert found.dead_letters[0].transaction
    assert found.nbytes > len(found.dead_letters[0].body)
    assert bench.total("dead_letters", sink="", reason="invalid") == 1


@pytest.mark.parametrize("bench", [{"budget": 1}], indirect=True)
async def test_a_post_that_is_mapped_again_is_counted_once(bench: Bench) -> None:
    """However often sinks far behind ask for it."""
    for seq in (1, 2, 3, 1, 2, 3):
        await bench.map(seq, posts.sample_purepath())
    assert len(bench.mapper.mapped) == 6
    assert bench.total("occurrences", category="purepath") == 3
    assert bench.total("violations", transaction="btName", field="visitId", rule="unexpected") == 3


async def test_another_mapper_maps_anew_and_counts_nothing_twice(bench: Bench) -> None:
    """Posts that are kept are forgotten, and those that are being mapped are waited for."""
    body, other = posts.mixed(3), posts.mixed(2, seed=1)
    before = await bench.map(1, body, other)
    second = CountingMapper(mapper(attributes={"site": "north"}))
    await bench.mapped_posts.use(second)
    assert bench.kept() == []
    after = await bench.map(1, body, other)
    assert after.batch.ids == before.batch.ids
    assert [b'"site":"north"' in record for record in (*before.batch.bodies, *after.batch.bodies)] == [False] * 3 + [
        True
    ] * 3
    await bench.map(2, other)
    assert bench.mapper.mapped == second.mapped == [body, other]
    assert sum(bench.total("occurrences", category=each) for each in CATEGORIES) == 5


@pytest.mark.parametrize("bench", [{"sinks": 1}], indirect=True)
async def test_a_post_is_kept_for_as_many_sinks_as_take_its_partition(bench: Bench) -> None:
    """Those of other partitions do not count, nor those that have ended."""
    body = posts.mixed(3)
    taking = bench.mapped_posts.taking
    with taking(0), taking(1), taking(1):
        await bench.map(1, body)
        assert bench.kept() == []
        with taking(0):
            await bench.map(2, body)
            assert bench.kept() == [2]
            await bench.map(2, body)
            assert bench.kept() == []
