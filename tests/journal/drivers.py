"""One driver per journal backend, and what the contract suite does with any journal."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from btfeed.journal import create
from btfeed.journal.base import Archive, Commit, Cursor, DeadLetter, DeadLetters, Entry, Journal, Outlet
from btfeed.journal.create import EmbeddedSettings, JournalSettings
from btfeed.journal.kafka.journal import KafkaJournal
from btfeed.journal.kafka.outlet import RETRIES_PARTITION
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.journal.kafka.shared import Tuning
from btfeed.journal.memory import MemoryJournal
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics
from tests.journal.journals import post
from tests.servers.kafka import shared
from tests.support.harness import DEADLINE, until_async

FAST = Tuning(fetch_wait=0.02, read_patience=0.2, check=0.1, contested=1.0)
"""So that a test does not wait for the end of a fetch when it reads somewhere else."""


class Driver(Protocol):
    """One backend. All that it creates works on the same data."""

    partitions: int
    settings: JournalSettings

    def create(self, starts: Mapping[str, str]) -> Journal: ...

    def dead_letters(self) -> AbstractContextManager[DeadLetters]: ...

    def archive(self, begin: int, end: int) -> Archive: ...


class MemoryDriver:
    settings: JournalSettings = EmbeddedSettings()

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self._journal = MemoryJournal({}, partitions)

    def create(self, starts: Mapping[str, str]) -> Journal:
        self._journal.starts = starts
        return self._journal

    def dead_letters(self) -> AbstractContextManager[DeadLetters]:
        return nullcontext(self._journal.dead_letters)

    def archive(self, begin: int, end: int) -> Archive:
        return self._journal.archive(begin, end)


class SqliteDriver:
    partitions = 1

    def __init__(self, directory: Path) -> None:
        self.settings: JournalSettings = EmbeddedSettings(directory=str(directory))

    def create(self, starts: Mapping[str, str]) -> Journal:
        return create.create(self.settings, starts, Metrics(), 1_000)

    def dead_letters(self) -> AbstractContextManager[DeadLetters]:
        return create.dead_letters(self.settings)

    def archive(self, begin: int, end: int) -> Archive:
        return create.archive(self.settings, begin, end)


class KafkaDriver:
    """Topics of its own on the shared broker. It never needs the spill."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        given = {
            "type": "kafka",
            "bootstrap_servers": shared().bootstrap,
            "prefix": f"contract-{uuid.uuid4().hex[:12]}",
            "instance": "one",
            "partitions": partitions,
            "replication_factor": 1,
            "min_insync_replicas": 1,
            "session_timeout": "6s",
            "retention": "36500d",
            "spill": False,
        }
        self._settings = KafkaJournalSettings.model_validate(given)
        self.settings: JournalSettings = self._settings

    def create(self, starts: Mapping[str, str]) -> Journal:
        return KafkaJournal(self._settings, starts, Metrics(), 1_000, tuning=FAST)

    def dead_letters(self) -> AbstractContextManager[DeadLetters]:
        return create.dead_letters(self.settings)

    def archive(self, begin: int, end: int) -> Archive:
        return create.archive(self.settings, begin, end)


DRIVERS: dict[str, Callable[[Path], Driver]] = {
    "memory": lambda directory: MemoryDriver(1),
    "memory with partitions": lambda directory: MemoryDriver(3),
    "sqlite": SqliteDriver,
    "kafka": lambda directory: KafkaDriver(1),
    "kafka-3": lambda directory: KafkaDriver(3),
}


class Opened:
    """An open journal and the outlets of its sinks, by sink and partition. retrying: outlets that have no posts."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.outlets: dict[str, list[Outlet]] = {}
        self.retrying: dict[str, list[Outlet]] = {}
        self.ended: list[Outlet] = []
        self.running: list[asyncio.Task[None]] = []

    def run(self, sink: str) -> None:
        found = self.outlets[sink] = []
        retrying = self.retrying[sink] = []

        async def begin(outlet: Outlet) -> None:
            (retrying if outlet.partition == RETRIES_PARTITION else found).append(outlet)

        async def end(outlets: Collection[Outlet]) -> None:
            self.ended += outlets

        self.running.append(asyncio.create_task(self.journal.outlets(sink).run(begin, end)))

    async def fill(self, numbers: range, size: int = 200) -> list[Post]:
        """Append posts one after the other."""
        posts = [post(number, size) for number in numbers]
        for each in posts:
            await self.journal.append(each)
        return posts


@asynccontextmanager
async def opened(driver: Driver, *sinks: str, **starts: str) -> AsyncIterator[Opened]:
    """starts: where a sink begins, if not at the oldest post."""
    named = dict.fromkeys(sinks, "oldest") | starts
    journal = driver.create(named)
    await journal.open()
    found = Opened(journal)
    try:
        for sink in named:
            found.run(sink)
        await until_async(lambda: all(len(o) == driver.partitions for o in found.outlets.values()), "all outlets")
        yield found
    finally:
        await journal.close()
        await asyncio.wait_for(asyncio.gather(*found.running, return_exceptions=True), DEADLINE)


async def read_all(outlet: Outlet, seq: int | None = None) -> list[Entry]:
    """All posts of a partition from its cursor or `seq` on, read in small pieces as a delivery would do."""
    following = (await outlet.cursor())[0].seq if seq is None else seq
    found: list[Entry] = []
    while entries := await outlet.read(following, 1_000):
        found += entries
        following = found[-1].seq + 1
    return found


async def read_every(outlets: Sequence[Outlet]) -> list[Post]:
    """All posts of all partitions from their cursors on."""
    return [entry.post for outlet in outlets for entry in await read_all(outlet)]


async def pass_all(outlet: Outlet, state: str | None = None) -> Cursor:
    """Commit a cursor behind all posts of the partition, and return it."""
    entries = await read_all(outlet)
    cursor = Cursor(entries[-1].seq + 1) if entries else (await outlet.cursor())[0]
    await outlet.commit(Commit(cursor, state))
    return cursor


def by_body(posts: Sequence[Post]) -> list[Post]:
    return sorted(posts, key=lambda post: post.body)


@asynccontextmanager
async def with_dead_letters(driver: Driver, *kept: DeadLetter) -> AsyncIterator[tuple[Opened, DeadLetters]]:
    """An open journal of the sinks a and b that has these dead letters."""
    async with opened(driver, "a", "b") as it:
        cursor, _ = await it.outlets["a"][0].cursor()
        await it.outlets["a"][0].commit(Commit(cursor, None, kept))
        with driver.dead_letters() as dead_letters:
            yield it, dead_letters


async def destinations(it: Opened, sink: str) -> dict[str, int]:
    """What the dead letters of a sink wait for, in all outlets."""
    return {name: number for outlet in it.outlets[sink] for name, number in (await outlet.destinations()).items()}


async def retries(it: Opened, sink: str, limit: int = 100) -> list[DeadLetter]:
    """What all outlets of a sink give to be retried."""
    return [each for outlet in it.outlets[sink] + it.retrying[sink] for each in await outlet.retries(limit)]
