"""Spills that other processes left: who forwards them to a real broker, and when."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from btfeed.journal.kafka.spill import CONSUMER, Spill
from btfeed.journal.kafka.worker import Worker
from btfeed.journal.sqlite.journal import SqliteJournal
from btfeed.journal.sqlite.settings import SqliteSettings
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics
from tests.journal.kafka.intakes import bodies_of, opened, settings_for
from tests.servers.kafka import Kafka, shared
from tests.support.harness import DEADLINE, until_async

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def kafka() -> Kafka:
    return shared()


async def test_what_other_workers_left_is_forwarded(kafka: Kafka, tmp_path: Path) -> None:
    """There were three workers and a receiver alone, now there is one worker. What waits is counted until Kafka has it."""
    bodies = {name: f"left in {name}".encode() for name in ("worker-2", "worker-3", ".")}
    for name, body in bodies.items():
        metrics = Metrics()
        journal = SqliteJournal(SqliteSettings(directory=str(tmp_path / name)), {CONSUMER: "oldest"}, metrics, 0)
        await journal.open()
        await journal.append(Post(body, 1_700_000_000_000, "192.0.2.1"))
        await journal.close()
    settings = settings_for(kafka.bootstrap, spill={"directory": str(tmp_path)})
    async with opened(settings, worker=Worker(1, 1)) as intake:
        await until_async(lambda: intake.count("forwarded_posts") == 3, "forwarded")
        await until_async(lambda: intake.count("spill_posts") == 0, "counted")
        assert await bodies_of(kafka, intake.names.posts) == Counter(bodies.values())
    async with opened(settings, worker=Worker(1, 1)) as intake:
        assert intake.count("spill_posts") == 0


async def test_a_directory_that_another_process_still_has_is_forwarded_later(kafka: Kafka, tmp_path: Path) -> None:
    """As while workers are stopped and a receiver alone has been started."""
    journal = SqliteJournal(SqliteSettings(directory=str(tmp_path / "worker-1")), {CONSUMER: "oldest"}, Metrics(), 0)
    await journal.open()
    await journal.append(Post(b"left", 1_700_000_000_000, "192.0.2.1"))
    async with opened(settings_for(kafka.bootstrap, spill={"directory": str(tmp_path)})) as intake:
        await intake.append(Post(b"new", 1_700_000_000_001, "192.0.2.1"))
        assert intake.count("forwarded_posts") == 0
        await journal.close()
        await until_async(lambda: intake.count("forwarded_posts") == 1, "forwarded")
        assert await bodies_of(kafka, intake.names.posts) == Counter([b"left", b"new"])


@pytest.mark.parametrize("step", ["measure", "close"])
async def test_a_directory_is_released_if_the_intake_is_closed_meanwhile(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """While it is opened, or closed because nothing is left in it."""
    settings = SqliteSettings(directory=str(tmp_path / "worker-1"))
    journal = SqliteJournal(settings, {CONSUMER: "oldest"}, Metrics(), 0)
    await journal.open()
    await journal.append(Post(b"left", 1_700_000_000_000, "192.0.2.1"))
    await journal.close()
    reached, original = asyncio.Event(), getattr(Spill, step)

    async def stalled(spill: Spill) -> None:
        if spill.directory == tmp_path / "worker-1" and not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        await original(spill)

    monkeypatch.setattr(Spill, step, stalled)
    async with opened(settings_for(kafka.bootstrap, spill={"directory": str(tmp_path)})):
        await asyncio.wait_for(reached.wait(), DEADLINE)
    again = SqliteJournal(settings, {CONSUMER: "oldest"}, Metrics(), 0)
    await again.open()
    await again.close()
