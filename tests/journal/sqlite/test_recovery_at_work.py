"""Damage that is found while posts come: recoveries do not follow each other for nothing."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed.journal.base import JournalUnavailable
from btfeed.journal.sqlite.database import FILE
from btfeed.journal.sqlite.worker import JournalWorker
from tests.journal.journals import Journal, fill, journal, post
from tests.journal.sqlite.damage import accounted
from tests.support.clock import FakeClock
from tests.support.harness import DEADLINE, until_async

pytestmark = pytest.mark.usefixtures("appending")

LOG = f"{FILE}-wal"


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many rounds of maintenance there were."""
    done: list[bool] = []
    tick = JournalWorker.tick

    def counted(worker: JournalWorker) -> bool:
        done.append(tick(worker))
        return done[-1]

    monkeypatch.setattr(JournalWorker, "tick", counted)
    return lambda: len(done)


async def _after(rounds: Callable[[], int], number: int) -> None:
    before = rounds()
    await until_async(lambda: rounds() > before + number, "rounds of maintenance")


async def _refused(appended: "asyncio.Future[bytes] | asyncio.Task[bytes]", why: str) -> None:
    with pytest.raises(JournalUnavailable, match=why):
        await asyncio.wait_for(appended, DEADLINE)


async def _settled(opened: Journal) -> None:
    """Return when `refusing` says what the thread knows now."""
    with suppress(JournalUnavailable):
        await opened.outlet("a").backlog()


async def _lost(opened: Journal, posts: int) -> None:
    await until_async(lambda: opened.count("journal_lost_posts") == posts, "posts counted as lost")


async def _recovered(opened: Journal) -> None:
    await _settled(opened)
    await until_async(lambda: not opened.refusing, "recovered")


async def test_files_that_are_deleted_again_and_again(tmp_path: Path) -> None:
    """Each time the journal goes on at once: there is nothing to copy, and nothing is kept. Every post counts as lost."""
    home = tmp_path / "journal"
    with capture_logs() as logs:
        async with journal(home, clock=FakeClock()) as opened:
            for turn in range(1, 4):
                await fill(opened, range(20))
                for path in home.glob(f"{FILE}*"):
                    path.unlink()
                await _lost(opened, 20 * turn)
                await _recovered(opened)
            assert opened.count("journal_errors") == 3
            taken = await fill(opened, range(5))
            assert await opened.bodies() == taken
    assert [each["event"] for each in logs if each["log_level"] != "debug"] == [
        "journal file damaged", "journal recovered"
    ] * 3  # fmt: skip
    assert not list(home.glob("*damaged*"))


async def test_a_damage_soon_after_a_recovery_waits(tmp_path: Path, rounds: Callable[[], int]) -> None:
    """Its file would be copied again. One error says when that is, and nothing says that the journal works until then."""
    clock = FakeClock()
    home = tmp_path / "journal"
    async with journal(home, clock=clock) as opened:
        written = await fill(opened, range(20))
        (home / LOG).unlink()
        await until_async(lambda: len(list(home.glob("*damaged*"))), "recovered")
        await _recovered(opened)
        written += await fill(opened, range(20, 30))
        clock.now += 20
        with capture_logs() as logs:
            (home / LOG).unlink()
            await until_async(lambda: opened.refusing, "noticed")
            why = "the journal's file is damaged: its files were deleted; recovered {} s ago, trying again in {} s"
            assert opened.refusing == why.format(20, 40)
            clock.now += 30
            await _after(rounds, 5)
            await _settled(opened)
            assert opened.refusing == why.format(50, 10)
            await _refused(asyncio.ensure_future(opened.append(post(99))), "trying again")
            assert opened.count("journal_errors") == 2
            clock.now += 10
            await _recovered(opened)
        assert await accounted(opened, written) == written
        for name in (FILE, LOG):  # nothing to copy, so that it does not wait
            (home / name).unlink()
        await _lost(opened, 30)
        await _recovered(opened)
    told = [each for each in logs if each["log_level"] != "debug"]
    assert [each["event"] for each in told] == ["journal file damaged again, refusing posts", "journal recovered"]
    assert (told[0]["recovered_ago"], told[0]["recovery_in"]) == (20, 40)


async def test_a_directory_that_is_away(tmp_path: Path, rounds: Callable[[], int]) -> None:
    """Moved, or not mounted: that is what posts are refused with, and there is nothing to recover. Once it is back, the
    journal has everything."""
    home, away = tmp_path / "journal", tmp_path / "away"
    async with journal(home) as opened:
        written = await fill(opened, range(20))
        with capture_logs() as logs:
            home.rename(away)
            await until_async(lambda: opened.refusing, "noticed")
            await _after(rounds, 5)
            assert opened.refusing == f"the journal's directory {home} is not there: posts are refused until it is back"
            await _refused(asyncio.ensure_future(opened.append(post(99))), "is not there")
            away.rename(home)
            await _recovered(opened)
        assert await opened.bodies() == written
        written += await fill(opened, range(20, 23))
        assert opened.count("journal_errors") == 1
        assert opened.count("journal_lost_posts") == 0
    told = [each["event"] for each in logs if each["log_level"] != "debug"]
    assert told == ["journal's directory is not there, refusing posts", "journal works again"]
    assert not list(home.glob("*damaged*"))
    async with journal(home) as opened:
        assert await opened.bodies() == written
