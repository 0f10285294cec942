"""Room in the SQLite journal: when it is full, what happens then, and what the metrics tell of it."""

import asyncio
import random
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from btfeed.journal.base import Commit, Cursor, JournalFull
from btfeed.journal.sqlite.database import FILE
from btfeed.journal.sqlite.settings import SqliteSettings
from tests.journal.journals import Journal, dead_letter, fill, journal, post
from tests.support.harness import until_async


@pytest.mark.parametrize("when_full", ["refuse", "drop-oldest"])
async def test_dead_letters_take_no_room_from_posts(tmp_path: Path, when_full: str) -> None:
    """A journal that holds many times its max_size of dead letters takes as many posts as an empty one, and drops none."""
    rng = random.Random(1)
    async with journal(tmp_path, ("a", "b"), max_size="1MiB", dead_letters="100MiB", when_full=when_full) as opened:
        for first in range(0, 2_000, 100):
            bodies = [b'{"n":"%s"}' % rng.randbytes(2_000).hex().encode() for _ in range(100)]
            new = [replace(dead_letter(first + place), body=body) for place, body in enumerate(bodies)]
            await opened.outlet("a").commit(Commit(Cursor(1), None, new))
        assert (tmp_path / FILE).stat().st_size > 2.5 * 2**20
        taken = await fill(opened, range(40), 20_000)
        assert await opened.bodies() == taken
        assert opened.count("journal_dropped_posts") == opened.count("dead_letters_evicted") == 0
        await until_async(lambda: opened.refusing is None, "still taking posts")


async def test_a_full_journal_refuses_until_there_is_room(tmp_path: Path) -> None:
    """when_full = refuse: nothing that was taken is lost, and posts are taken again once sinks moved on."""
    async with journal(tmp_path, max_size="1MiB") as opened:
        taken = await _fill_up(opened)
        assert opened.refusing == "the journal is full"
        assert await opened.bodies() == taken
        await opened.outlet("a").commit(Commit(Cursor(len(taken) // 2)))
        await until_async(lambda: opened.refusing is None, "room")
        await opened.append(post(9_999, 20_000))
        assert opened.count("journal_dropped_posts") == 0


async def test_delivered_posts_are_dropped_early_for_room(tmp_path: Path) -> None:
    """Before their retention ends, so that the file does not grow beyond max_size."""
    async with journal(tmp_path, max_size="1MiB") as opened:
        for number in range(300):
            await opened.append(post(number, 20_000))
            await opened.outlet("a").commit(Commit(Cursor(number + 2)))
        assert len(await opened.bodies()) > 10
    assert (tmp_path / FILE).stat().st_size < 1.25 * 2**20


async def test_drop_oldest_counts_what_each_sink_loses(tmp_path: Path) -> None:
    """when_full = drop-oldest: a sink that had not had the dropped posts goes on behind them, and they are counted."""
    async with journal(tmp_path, ("fast", "slow"), max_size="1MiB", when_full="drop-oldest") as opened:
        await fill(opened, range(20), 20_000)
        await opened.outlet("fast").commit(Commit(Cursor(16)))
        await fill(opened, range(20, 100), 20_000)
        first = (await opened.everything())[0].seq
        assert first > 60
        assert opened.count("journal_dropped_posts", sink="slow") == first - 1
        assert opened.count("journal_dropped_posts", sink="fast") == first - 16
        assert await opened.outlet("slow").cursor() == await opened.outlet("fast").cursor() == (Cursor(first), None)
        await opened.outlet("slow").commit(Commit(Cursor(3), "late"))
        assert await opened.outlet("slow").cursor() == (Cursor(first), "late")
    assert (tmp_path / FILE).stat().st_size < 1.25 * 2**20


async def test_a_post_that_never_fits_costs_no_other(tmp_path: Path) -> None:
    """A post larger than max_size is refused. Nothing is dropped for it, and smaller ones are taken as before."""
    async with journal(tmp_path, max_size="1MiB", when_full="drop-oldest") as opened:
        bodies = await fill(opened, range(10))
        with pytest.raises(JournalFull):
            await opened.append(post(10, 2**20))
        assert opened.refusing is None
        bodies += await fill(opened, range(11, 13))
        assert await opened.bodies() == bodies
        assert opened.count("journal_dropped_posts") == 0


async def test_small_posts_fill_the_journal(tmp_path: Path) -> None:
    """Room is calculated from what posts take in the file: thousands of small ones at once fit if their bytes do."""
    async with journal(tmp_path, max_size="2MiB") as opened:
        await asyncio.gather(*(opened.append(post(number)) for number in range(2_000)))
        assert len(await opened.bodies()) == 2_000


async def test_a_full_journal_says_so_after_a_start(tmp_path: Path) -> None:
    """At once, and before it has refused a post. It is not full if sinks have had posts that make room."""
    async with journal(tmp_path, max_size="1MiB") as opened:
        taken = await _fill_up(opened)
        with suppress(JournalFull):
            while True:
                taken += await fill(opened, [len(taken)])
    async with journal(tmp_path, max_size="1MiB") as opened:
        assert opened.refusing == "the journal is full"
        assert await opened.bodies() == taken
        await opened.outlet("a").commit(Commit(Cursor(2)))
    async with journal(tmp_path, max_size="1MiB") as opened:
        assert opened.refusing is None
        assert not await _refuses(opened, 100)


async def test_a_full_journal_says_so_after_a_reload(tmp_path: Path) -> None:
    """If `max_size` is below what is used, or above it again, and if posts may be dropped."""
    async with journal(tmp_path, max_size="3MiB") as opened:
        taken = await fill(opened, range(80), 20_000)
        await _reconfigure(opened, max_size="1MiB")
        await until_async(lambda: opened.refusing == "the journal is full", "full")
        await _reconfigure(opened, max_size="3MiB")
        await until_async(lambda: opened.refusing is None, "room")
        await _reconfigure(opened, max_size="1MiB")
        await until_async(lambda: opened.refusing == "the journal is full", "full")
        assert await opened.bodies() == taken
        await _reconfigure(opened, max_size="1MiB", when_full="drop-oldest")
        assert opened.refusing is None
        assert await opened.bodies() == taken
        assert not await _refuses(opened, 100)


async def test_a_refused_post_that_can_fit_no_more_keeps_no_other_out(tmp_path: Path) -> None:
    """Since it is larger than a new `max_size`: smaller ones fit."""
    async with journal(tmp_path, max_size="4MiB") as opened:
        await fill(opened, range(10), 100_000)
        assert await _refuses(opened, 3_500_000)
        assert opened.refusing == "the journal is full"
        await _reconfigure(opened, max_size="2MiB")
        await until_async(lambda: opened.refusing is None, "room")


async def _reconfigure(opened: Journal, **settings: str) -> None:
    fixed = {"directory": str(opened.directory), "retention": "36500d"}
    await opened.reconfigure(SqliteSettings.model_validate(fixed | settings), {"a": "oldest"}, 1_000)


async def _refuses(opened: Journal, size: int) -> bool:
    try:
        await opened.append(post(9_999, size))
    except JournalFull:
        return True
    return False


async def _fill_up(opened: Journal) -> list[bytes]:
    """Append until the journal is full; returns what was taken."""
    taken: list[bytes] = []
    with suppress(JournalFull):
        while True:
            taken += await fill(opened, [len(taken)], 20_000)
    assert len(taken) > 30
    with pytest.raises(JournalFull, match="max_size of 1048576 bytes"):
        await opened.append(post(len(taken), 20_000))
    return taken


async def test_the_metrics_tell_limits_and_the_room_on_the_disk(tmp_path: Path) -> None:
    """The bounds as configured, what the files take, and what is free on their disk, within a tick."""
    async with journal(tmp_path, max_size="2MiB", dead_letters="1MiB") as opened:
        await fill(opened, range(10), size=5_000)
        names = ("journal_limit_bytes", "dead_letter_limit_bytes", "journal_file_bytes", "journal_free_bytes")

        def values() -> list[float]:
            return [opened.metrics.registry.get_sample_value(f"btfeed_{name}") or 0.0 for name in names]

        await until_async(lambda: values()[2] >= 50_000, "measured")
        limit, dead_letter_limit, file, free = values()
        assert (limit, dead_letter_limit) == (2**21, 2**20)
        assert file < 2**21
        assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
        summary = opened.metrics.summary()
        assert (summary["journal_limit_bytes"], summary["dead_letter_limit_bytes"]) == (2**21, 2**20)
        assert isinstance(summary["journal_free_bytes"], int)
        assert summary["journal_free_bytes"] > 0


async def test_the_metrics_tell_how_much_is_undelivered(tmp_path: Path) -> None:
    """As the sink that is furthest behind sees it. Delivered posts are kept, and count no more."""
    async with journal(tmp_path, ["a", "b"]) as opened:
        await fill(opened, range(10), size=20_000)

        def share() -> float:
            summary = opened.metrics.summary()
            undelivered, used = summary["journal_undelivered_bytes"], summary["journal_bytes"]
            assert isinstance(undelivered, int)
            assert isinstance(used, int)
            return round(undelivered / used, 2) if used > 200_000 else 0

        await until_async(lambda: share() == 1, "everything is undelivered")
        await opened.outlet("a").commit(Commit(Cursor(11)))
        await opened.outlet("b").commit(Commit(Cursor(4)))
        await until_async(lambda: share() == 0.7, "three of ten posts are delivered")
        await opened.outlet("b").commit(Commit(Cursor(11)))
        await until_async(lambda: share() == 0, "everything is delivered")
