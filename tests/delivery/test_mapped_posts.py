"""The feed: each post mapped once for the sinks near the head, within a budget, and counted once."""

import asyncio
from threading import Barrier, Event
from typing import Any

import pytest

from btfeed.delivery import mapped_posts as feed
from btfeed.delivery.mapped_posts import MappedPost, MappedPosts
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
    def __init__(self, budget: int = 2**20, unexpected: str = "report", sinks: int = 3) -> None:
        self.mapper = CountingMapper(mapper(unexpected=unexpected))
        self.metrics = Metrics()
        self.feed = MappedPosts(self.mapper, self.metrics, sinks, budget)

    async def map(self, seq: int, *bodies: bytes) -> MappedPost:
        """Ask for the first of them, which is numbered `seq`; the others follow."""
        entry, *following = entries(seq, list(map(post, bodies)))
        return await self.feed.map(entry, following)

    def total(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"btfeed_{name}_total", labels) or 0.0


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Any:
    found = Bench(**getattr(request, "param", {}))
    yield found
    found.feed.close()


async def test_two_sinks_share_one_mapping(bench: Bench) -> None:
    """Whether they ask at the same time or one after the other, they get the same object."""
    first, second = await asyncio.gather(bench.map(1, posts.mixed(5)), bench.map(1, posts.mixed(5)))
    assert first is second is await bench.map(1, posts.mixed(5))
    assert len(bench.mapper.mapped) == 1


async def test_a_sink_that_goes_away_does_not_spoil_it_for_another(bench: Bench) -> None:
    """Cancelling one that waits for a mapping leaves the mapping to the other."""
    gone = asyncio.create_task(bench.map(1, posts.mixed(5)))
    other = asyncio.create_task(bench.map(1, posts.mixed(5)))
    await asyncio.sleep(0)
    gone.cancel()
    assert len((await other).batch) == 5
    assert gone.cancelled()
    assert len(bench.mapper.mapped) == 1


async def test_small_posts_are_mapped_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as make a group go to a thread at once, and are there when they are asked for."""
    bodies = [posts.mixed(5, seed) for seed in range(10)]
    monkeypatch.setattr(feed, "GROUP_BYTES", sum(map(len, bodies[:3])) - 1)
    assert len((await bench.map(1, *bodies)).batch) == 5
    assert bench.mapper.mapped == bodies[:3]
    assert [len((await bench.map(seq, bodies[seq - 1])).batch) for seq in (2, 3)] == [5, 5]
    assert bench.mapper.mapped == bodies[:3]


async def test_a_group_ends_where_it_becomes_too_much(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of it is mapped when it is asked for, also by a sink that had waited for it, and counted once."""
    bodies = [posts.sample_purepath()] * 3
    monkeypatch.setattr(feed, "GROUP_MAPPED", 1)
    found = await asyncio.gather(bench.map(1, *bodies), bench.map(2, *bodies[1:]))
    assert [one.seq for one in found] == [1, 2]
    assert len(bench.mapper.mapped) == 2
    assert bench.total("occurrences", category="purepath") == 2


@pytest.mark.parametrize("bench", [{"sinks": 2}], indirect=True)
async def test_what_all_sinks_have_had_is_let_go(bench: Bench) -> None:
    """Nobody will ask for it again; one that does after all gets it mapped again."""
    bodies = [posts.mixed(5, seed) for seed in range(2)]
    await bench.map(1, *bodies)
    await bench.map(2, bodies[1])
    assert list(bench.feed._posts) == [1, 2]
    await bench.map(1, bodies[0])
    assert list(bench.feed._posts) == [2]
    await bench.map(2, bodies[1])
    assert (list(bench.feed._posts), bench.feed._had, bench.feed._total) == ([], {}, 0)
    assert len((await bench.map(1, bodies[0])).batch) == 5
    assert len(bench.mapper.mapped) == 3


class Meeting:
    """Maps two posts at a time, or none, and the second of them first."""

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


async def test_posts_are_mapped_at_the_same_time_and_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that follow are begun beside the one that is asked for; all are counted, whichever is done first."""
    monkeypatch.setattr(feed, "GROUP_BYTES", 1)
    metrics = Metrics()
    both = MappedPosts(Meeting(), metrics, sinks=2)
    asked = entries(1, [post(posts.mixed(seq)) for seq in (1, 2)])
    first = await both.map(asked[0], asked[1:])
    assert [first.seq, len(first.batch)] == [1, 1]
    assert list(both._posts) == [2, 1]
    assert len((await both.map(asked[1])).batch) == 2
    counted = [metrics.occurrences.labels(category)._value.get() for category in CATEGORIES]
    assert sum(counted) == 3
    both.close()


@pytest.mark.parametrize("bench", [{"budget": 20_000}], indirect=True)
async def test_what_is_kept_stays_within_the_budget(bench: Bench) -> None:
    """A sink far behind maps again what went, and what is kept never grows with how far apart the sinks are."""
    for seq in range(1, 60):
        await bench.map(seq, posts.mixed(5, seq))
        assert sum(kept.nbytes for kept in bench.feed._posts.values()) == bench.feed._total <= 20_000
    again = len(bench.mapper.mapped)
    await bench.map(59, posts.mixed(5, 59))
    assert len(bench.mapper.mapped) == again
    assert len((await bench.map(1, posts.mixed(5, 1))).batch) == 5
    assert len(bench.mapper.mapped) == again + 1


@pytest.mark.parametrize("bench", [{"budget": 20_000}], indirect=True)
async def test_posts_without_records_do_not_pile_up(bench: Bench) -> None:
    """They take room too, if only a little."""
    for seq in range(1, 200):
        await bench.map(seq, posts.mixed(0))
    assert len(bench.feed._posts) < 100


@pytest.mark.parametrize("bench", [{"budget": 10}], indirect=True)
async def test_a_post_over_the_budget_is_kept_until_the_next(bench: Bench) -> None:
    """One post is always kept: the other sinks will ask for it soon."""
    await bench.map(1, posts.mixed(50))
    await bench.map(1, posts.mixed(50))
    await bench.map(2, posts.mixed(50, 1))
    assert list(bench.feed._posts) == [2]
    assert len(bench.mapper.mapped) == 2


async def test_a_bug_in_mapping_makes_that_post_a_dead_letter(bench: Bench) -> None:
    """Its neighbours are mapped; its letter is the raw body, with the reason and a name of its own."""
    bench.mapper.broken.add(posts.mixed(3, 1))
    good, bad, after = [await bench.map(seq, posts.mixed(3, seq)) for seq in (0, 1, 2)]
    assert [len(mapped.batch) for mapped in (good, bad, after)] == [3, 0, 3]
    (letter,) = bad.dead_letters
    assert (letter.kind, letter.sink, letter.body) == ("post", "", posts.mixed(3, 1))
    assert letter.reason == "mapping failed: ZeroDivisionError('a bug')"
    assert letter.event_id
    assert bench.total("dead_letters", sink="", reason="malformed") == 1


async def test_a_body_that_is_no_post_is_a_dead_letter(bench: Bench) -> None:
    """It can't come through the receiver, but may through the journal's file."""
    found = await bench.map(1, b"\x00\xff")
    assert [letter.kind for letter in found.dead_letters] == ["post"]
    assert "not a BusinessTransactions message" in found.dead_letters[0].reason


@pytest.mark.parametrize("bench", [{"unexpected": "dead-letter"}], indirect=True)
async def test_occurrences_that_are_not_to_be_delivered_are_dead_letters(bench: Bench) -> None:
    """Under a policy of dead-letter, with their columns, for no sink in particular."""
    found = await bench.map(1, posts.sample_purepath())
    assert [(letter.kind, letter.sink) for letter in found.dead_letters] == [("record", "")]
    assert found.dead_letters[0].event_id
    assert found.dead_letters[0].transaction
    assert found.nbytes > len(found.dead_letters[0].body)
    assert bench.total("dead_letters", sink="", reason="invalid") == 1


@pytest.mark.parametrize("bench", [{"budget": 1}], indirect=True)
async def test_a_post_that_is_mapped_again_is_counted_once(bench: Bench) -> None:
    """For a sink far behind, or after the head has gone on."""
    for seq in (1, 2, 3, 1, 2, 3):
        await bench.map(seq, posts.sample_purepath())
    assert len(bench.mapper.mapped) == 6
    assert bench.total("occurrences", category="purepath") == 3
    assert bench.total("violations", transaction="btName", field="visitId", rule="unexpected") == 3
