"""Sinks that reject or expire everything for long: posts are taken, other sinks get all records, and the bound holds."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.settings import DeliverySettings, FilterSettings
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.journal import SqliteJournal
from btfeed.journal.sqlite.settings import SqliteSettings, Tuning
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics
from sinks.base import WriteResult
from sinks.batch import Batch
from tests.support.fakes import FakeSink, mapper
from tests.support.harness import until_async
from tests.support.posts import mixed

MEBIBYTE = 2**20
OCCURRENCES = 500


def _reject(batch: Batch) -> WriteResult:
    return WriteResult(refused=dict.fromkeys(range(len(batch)), "the mapping has a conflict"))


class Counting(FakeSink):
    """Counts what it takes, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    async def write(self, batch: Batch) -> WriteResult:
        self.taken += len(batch)
        return WriteResult()


@asynccontextmanager
async def _delivering(
    journal: SqliteJournal, metrics: Metrics, sinks: Mapping[str, tuple[FakeSink, DeliverySettings]]
) -> AsyncIterator[None]:
    mapped_posts = MappedPosts(mapper(), metrics, sinks=len(sinks))
    deliveries = [
        Delivery(name, sink, False, settings, FilterSettings(), journal.outlet(name), mapped_posts, metrics)
        for name, (sink, settings) in sinks.items()
    ]
    running = [asyncio.create_task(delivery.run()) for delivery in deliveries]
    yield
    for delivery in deliveries:
        delivery.stop()
    await asyncio.gather(*running)
    mapped_posts.close()


async def _passed(journal: SqliteJournal, sinks: Iterable[str], seq: int) -> None:
    """Wait until all sinks are there."""

    def passed() -> bool:
        cursors = journal._thread.snapshot.cursors
        return all(cursors[name][0].seq >= seq for name in sinks)

    await until_async(passed, f"all sinks at post {seq}")


@pytest.mark.slow
@pytest.mark.parametrize("when_full", ["refuse", "drop-oldest"])
@pytest.mark.parametrize(
    ("posts", "size", "bound"),
    [
        pytest.param(60, 4 * MEBIBYTE, MEBIBYTE, id="short"),
        pytest.param(250, 20 * MEBIBYTE, 10 * MEBIBYTE, id="long", marks=pytest.mark.chaos),
    ],
)
async def test_dead_letters_stop_nothing(tmp_path: Path, when_full: str, posts: int, size: int, bound: int) -> None:
    """A journal gets more posts than it has room for, and all of them become dead letters of two sinks. No post is refused,
    a healthy sink gets every record, dead letters stay within their bound, and those that go are counted and logged."""
    settings = SqliteSettings.model_validate(
        {"directory": str(tmp_path), "max_size": f"{size}B", "dead_letters": f"{bound}B", "when_full": when_full}
        | {"retention": "0s"}
    )
    metrics, healthy = Metrics(), Counting()
    sinks: dict[str, tuple[FakeSink, DeliverySettings]] = {
        "healthy": (healthy, DeliverySettings()),
        "rejecting": (FakeSink(always=_reject), DeliverySettings()),
        "expiring": (FakeSink(), DeliverySettings.model_validate({"max_age": "1s"})),
    }
    journal = SqliteJournal(settings, dict.fromkeys(sinks, "oldest"), metrics, 1_000, tuning=Tuning(tick=0.05))
    with capture_logs() as logged:
        await journal.open()
        async with _delivering(journal, metrics, sinks):
            for number in range(posts):
                await journal.append(Post(mixed(OCCURRENCES, number), 1_700_000_000_000, "10.0.0.1"))
                if number % 10 == 9:  # let the sinks keep up: a backlog may well fill the journal
                    await _passed(journal, sinks, number + 2)
            await _passed(journal, sinks, posts + 1)
        kept = {each.sink: each.letters for each in await journal.kept()}
        await journal.close()
    everything = posts * OCCURRENCES
    assert healthy.taken == everything
    assert metrics.registry.get_sample_value("btfeed_journal_dropped_posts_total", {"sink": "healthy"}) is None
    for sink, reason in (("rejecting", "refused"), ("expiring", "expired")):
        labels = {"sink": sink, "reason": reason}
        evicted = metrics.registry.get_sample_value("btfeed_dead_letters_evicted_total", labels) or 0
        assert evicted > 0
        assert evicted + kept.get(sink, 0) == everything
        lines = [line for line in logged if line["event"] == "dead letters full, oldest deleted" and line["sink"] == sink]
        assert sum(line["count"] for line in lines) == evicted
    database = JournalDatabase.open(tmp_path)
    assert database.dead_letters.nbytes() <= bound
    assert database.used_bytes() <= bound + 4 * MEBIBYTE
    assert (tmp_path / FILE).stat().st_size < size + 2 * bound
    database.close()
