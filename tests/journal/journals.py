"""SQLite journals for tests: opened, filled, and looked at."""

import os
import random
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from btfeed.journal.base import DeadLetter, Entry, Wants
from btfeed.journal.sqlite.database import JournalDatabase
from btfeed.journal.sqlite.journal import SqliteJournal
from btfeed.journal.sqlite.settings import SqliteSettings, Tuning
from btfeed.posts.post import Post, digest
from btfeed.telemetry.metrics import Metrics
from sinks.batch import Transaction
from sinks.shared.clock import SYSTEM_CLOCK, Clock

MAX_OCCURRENCES = 1_000
EVERYTHING = 2**62


class Journal(SqliteJournal):
    """A journal with its metrics and directory."""

    metrics: Metrics
    directory: Path

    def count(self, name: str, **labels: str) -> int:
        """The value of a counter, the sum over all labels that are not named."""
        metric: Counter = getattr(self.metrics, name)
        samples = [sample for family in metric.collect() for sample in family.samples if sample.name.endswith("_total")]
        return int(sum(sample.value for sample in samples if labels.items() <= sample.labels.items()))

    async def everything(self, seq: int = 0) -> list[Entry]:
        """All posts from `seq` on, read in small pieces as a sink would do."""
        found: list[Entry] = []
        while entries := await self.outlet("a").read(found[-1].seq + 1 if found else seq, 2_000):
            found += entries
        return found

    def first_seq(self) -> int:
        """Posts below this number were dropped."""
        return self._thread.snapshot.first

    async def bodies(self, seq: int = 0) -> list[bytes]:
        return [entry.post.body for entry in await self.everything(seq)]


@asynccontextmanager
async def journal(
    directory: Path,
    starts: dict[str, str] | Sequence[str] = ("a",),
    vfs: str | None = None,
    tuning: Tuning = Tuning(tick=0.05),  # noqa: B008 - immutable
    clock: Clock = SYSTEM_CLOCK,
    **settings: Any,
) -> AsyncIterator[Journal]:
    """An open journal that keeps posts forever by default. starts: its sinks, and where they start if not at the oldest
    post."""
    settings.setdefault("retention", "36500d")
    named = starts if isinstance(starts, dict) else dict.fromkeys(starts, "oldest")
    metrics = Metrics()
    sqlite = SqliteSettings(directory=str(directory), **settings)
    opened = Journal(sqlite, named, metrics, MAX_OCCURRENCES, vfs, tuning=tuning, clock=clock)
    opened.metrics, opened.directory = metrics, directory
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


def seeded(seed: int | None = None) -> random.Random:
    """Random numbers that can be repeated: set BTFEED_SEED to the seed that a failed test shows. seed: one that failed."""
    if seed is None:
        seed = int(os.environ.get("BTFEED_SEED") or random.randrange(2**32))
        sys.stdout.write(f"BTFEED_SEED={seed}\n")
    return random.Random(seed)


def post(number: int, size: int = 200, received: int = 1_700_000_000_000) -> Post:
    """Equal numbers give equal posts, and different numbers different ones."""
    body = b"post %d " % number + random.Random(number).randbytes(size)
    return Post(body[:size], received, "10.0.0.1")


def entries(first_seq: int, posts: Sequence[Post]) -> list[Entry]:
    """Posts as the journal has them."""
    return [Entry(seq, post, digest(post.body)) for seq, post in enumerate(posts, start=first_seq)]


def dead_letter(number: int, sink: str = "a", reason: str = "refused") -> DeadLetter:
    """A record that a sink refused."""
    body = b'{"timestamp":"2013-01-16T10:05:57.840Z","n":%d}' % number
    transaction = Transaction("name", "application", "profile", "server", "purepath")
    return DeadLetter("record", sink, reason, 1, body, 1, f"id-{number}", "key", 2, transaction)


def wanting(*sinks: str) -> dict[str, Wants]:
    """Sinks that want every record."""
    return dict.fromkeys(sinks, lambda _: True)


async def fill(journal: Journal, numbers: Iterable[int], size: int = 200) -> list[bytes]:
    """Append posts one after the other; returns their bodies."""
    posts = [post(number, size) for number in numbers]
    for each in posts:
        await journal.append(each)
    return [each.body for each in posts]


def dead_letters(directory: Path, where: str = "1") -> list[DeadLetter]:
    """The dead letters in the file for which the SQL expression holds."""
    database = JournalDatabase.open(directory)
    try:
        return list(database.dead_letters.select(where))
    finally:
        database.close()
