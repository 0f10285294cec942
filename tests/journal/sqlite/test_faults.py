"""The journal on a failing disk: it acknowledges only what is durable, makes no post wait, and recovers by itself."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import apsw
import pytest

from btfeed.journal.base import Commit, Cursor, JournalError, JournalUnavailable
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.journal import SqliteJournal
from btfeed.journal.sqlite.layout import PAGE_SIZE
from btfeed.journal.sqlite.post_log import PostLog
from btfeed.journal.sqlite.settings import SqliteSettings, Tuning
from btfeed.journal.sqlite.worker import JournalWorker
from btfeed.telemetry.metrics import Metrics
from tests.journal import journals
from tests.journal.journals import EVERYTHING, Journal, dead_letter, entries, fill, post, seeded
from tests.journal.sqlite.faulty_disk import FaultyDisk
from tests.support.clock import FakeClock
from tests.support.harness import DEADLINE, until_async

pytestmark = pytest.mark.usefixtures("appending")

FAULTS = {
    "disk full": ("write", apsw.SQLITE_FULL),
    "write error": ("write", apsw.SQLITE_IOERR_WRITE),
    "fsync error": ("sync", apsw.SQLITE_IOERR_FSYNC),
    "read-only": ("write", apsw.SQLITE_READONLY),
}


FROM_THE_FILE = Tuning(recent_bytes=0, tick=0.05)
"""No post is kept in memory, so that reads go to the failing disk."""
journal = partial(journals.journal, tuning=FROM_THE_FILE)


@pytest.fixture
def disk() -> FaultyDisk:
    """A disk that works until a test makes it fail."""
    return FaultyDisk()


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> tuple[str, int]:
    """Which call fails, and how."""
    return FAULTS[request.param]


async def _refused(opened: Journal, number: int) -> None:
    with pytest.raises(JournalUnavailable):
        await asyncio.wait_for(opened.append(post(number)), DEADLINE)


async def _healed(opened: Journal) -> None:
    await until_async(lambda: opened.refusing is None, "healed")


async def test_a_failing_disk_keeps_only_new_sinks_out(tmp_path: Path, disk: FaultyDisk, fault: tuple[str, int]) -> None:
    """Their cursors can't be saved. Other settings change meanwhile, and new sinks come once the disk works again."""
    both = {"a": "oldest", "b": "oldest"}
    settings = SqliteSettings.model_validate({"directory": str(tmp_path), "max_size": "2GiB"})
    async with journal(tmp_path, vfs=disk.name) as opened:
        await fill(opened, range(5))
        with disk.failing(*fault):
            await _refused(opened, 100)
            with pytest.raises(JournalUnavailable):
                await opened.reconfigure(settings, both, 1_000)
            await opened.reconfigure(settings, {"a": "oldest"}, 1_000)
        await _healed(opened)
        await opened.reconfigure(settings, both, 1_000)
        assert await opened.outlet("b").cursor() == (Cursor(1), None)


async def test_a_failing_disk_acknowledges_nothing(tmp_path: Path, disk: FaultyDisk, fault: tuple[str, int]) -> None:
    """Each post is refused at once. When the disk works again, posts are taken without a restart."""
    async with journal(tmp_path, vfs=disk.name) as opened:
        taken = await fill(opened, range(5))
        with disk.failing(*fault):
            for number in range(100, 110):
                await _refused(opened, number)
            assert opened.refusing
            assert opened.refusing.startswith("the journal failed")
        await _healed(opened)
        taken += await fill(opened, range(5, 10))
        assert opened.count("journal_errors") >= 1
    async with journal(tmp_path) as opened:
        assert await opened.bodies() == taken


async def test_no_post_waits_while_the_disk_fails(tmp_path: Path, disk: FaultyDisk, fault: tuple[str, int]) -> None:
    """A hundred posts at once are refused together, long before they would time out."""
    async with journal(tmp_path, vfs=disk.name) as opened:
        with disk.failing(*fault):
            async with asyncio.timeout(DEADLINE):
                outcomes = await asyncio.gather(*(opened.append(post(n)) for n in range(100)), return_exceptions=True)
        assert all(isinstance(outcome, JournalUnavailable) for outcome in outcomes)


async def test_reading_goes_on_while_the_disk_fails(tmp_path: Path, disk: FaultyDisk, fault: tuple[str, int]) -> None:
    """Sinks can read, and their backlog is known. What they commit is refused as a whole."""
    async with journal(tmp_path, vfs=disk.name) as opened:
        taken = await fill(opened, range(5))
        commit = Commit(Cursor(4), "state", [dead_letter(1)])
        with disk.failing(*fault):
            with pytest.raises(JournalUnavailable):
                await opened.outlet("a").commit(commit)
            assert await opened.bodies() == taken
            assert (await opened.outlet("a").backlog()).posts == 5
            assert await opened.outlet("a").cursor() == (Cursor(1), None)
        await _healed(opened)
        await opened.outlet("a").commit(commit)
        assert await opened.outlet("a").cursor() == (Cursor(4), "state")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Another process is writing for long."""
    with closing(apsw.Connection(str(directory / FILE))) as other:
        other.set_busy_timeout(5_000)
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


IMPATIENT = Tuning(tick=0.05, lock_wait=0.01)


async def test_posts_wait_while_another_process_is_writing(tmp_path: Path) -> None:
    """However long: that is no failure of the disk. They are durable once it has finished; until then the journal is not
    ready."""
    async with journal(tmp_path, tuning=IMPATIENT) as opened:
        taken = await fill(opened, range(5))
        with _locked(tmp_path):
            pending = [asyncio.ensure_future(opened.append(post(number))) for number in range(5, 10)]
            committed = asyncio.create_task(opened.outlet("a").commit(Commit(Cursor(3), "state", [dead_letter(1)])))
            await until_async(lambda: "locked by another process" in (opened.refusing or ""), "waiting")
            assert not any(task.done() for task in pending)
            await opened.answer()  # it does not hang
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(committed, *pending)
        assert await opened.bodies() == taken + [post(number).body for number in range(5, 10)]
        await _healed(opened)
        assert opened.count("journal_errors") == 0


async def test_maintenance_waits_while_another_process_is_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rounds of it can't do anything, and nothing is said to be broken."""
    rounds: list[bool] = []
    tick = JournalWorker.tick

    def counted(worker: JournalWorker) -> bool:
        rounds.append(tick(worker))
        return rounds[-1]

    async with journal(tmp_path, tuning=IMPATIENT) as opened:
        with _locked(tmp_path):
            monkeypatch.setattr(JournalWorker, "tick", counted)
            await until_async(lambda: len(rounds) > 5, "rounds of maintenance")
            assert (opened.refusing, opened.count("journal_errors")) == (None, 0)
        await opened.append(post(1))


async def test_a_journal_closes_while_another_process_is_writing(tmp_path: Path) -> None:
    """What waits is refused: it was never acknowledged."""
    async with journal(tmp_path, tuning=IMPATIENT) as opened:
        with _locked(tmp_path):
            pending = asyncio.ensure_future(opened.append(post(1)))
            await until_async(lambda: opened.refusing, "waiting")
            async with asyncio.timeout(DEADLINE):
                await opened.close()
            with pytest.raises(JournalUnavailable, match="locked by another process"):
                await pending


async def test_closing_on_a_failing_disk(tmp_path: Path, disk: FaultyDisk, fault: tuple[str, int]) -> None:
    """It closes, and what was acknowledged is there at the next start."""
    async with journal(tmp_path, vfs=disk.name) as opened:
        taken = await fill(opened, range(5))
        with disk.failing(*fault):
            await _refused(opened, 5)
            async with asyncio.timeout(DEADLINE):
                await opened.close()
    async with journal(tmp_path) as opened:
        assert (await opened.bodies())[:5] == taken
        await opened.append(post(6))


async def test_starting_on_a_failing_disk(tmp_path: Path, disk: FaultyDisk) -> None:
    """The error says why. The next start finds all posts."""
    async with journal(tmp_path) as opened:
        taken = await fill(opened, range(5))
    with disk.failing("read", apsw.SQLITE_IOERR_READ), pytest.raises(JournalUnavailable, match="can't open the journal"):
        async with journal(tmp_path, vfs=disk.name):
            pass
    async with journal(tmp_path, vfs=disk.name) as opened:
        assert await opened.bodies() == taken


async def test_what_was_acknowledged_survives_the_loss_of_power(tmp_path: Path, disk: FaultyDisk, quick: bool) -> None:
    """Whatever fails, and whenever power is lost. A failed sync made nothing durable, and no acknowledged post relied on
    it. After each of many steps, a journal is opened on what the disk has."""
    rng = seeded()
    acknowledged: list[bytes] = []
    home = tmp_path / "journal"
    steps = 20 if quick else 60
    async with journal(home, vfs=disk.name) as opened:
        for step in range(steps):
            disk.fail = dict([rng.choice(list(FAULTS.values()))]) if rng.random() < 0.3 else {}
            if not disk.fail:
                await _healed(opened)
            try:
                for number in range(rng.randrange(1, 4)):
                    acknowledged += await fill(opened, [step * 10 + number], rng.choice((100, 50_000, 900_000)))
            except JournalUnavailable:
                assert disk.fail
            await _assert_durable(disk.after_power_loss(home, tmp_path / f"after-{step}"), acknowledged)
        disk.fail = {}
    assert len(acknowledged) > steps / 2
    assert sum(disk.hits.values()) > steps / 12


async def _assert_durable(directory: Path, acknowledged: list[bytes]) -> None:
    async with journal(directory) as opened:
        found = await opened.bodies()
        assert opened.count("journal_lost_posts") == opened.count("journal_damaged_posts") == 0
    there = iter(found)
    assert all(body in there for body in acknowledged), "lost, or out of order"


async def test_a_log_that_a_failed_sync_left_is_rewritten(tmp_path: Path, disk: FaultyDisk) -> None:
    """After a failed sync the process ends. The next one reads from the log what the disk does not have. What it then
    acknowledges behind that survives the loss of power."""
    home = tmp_path / "journal"
    home.mkdir()
    first = JournalDatabase.open(home, disk.name)
    first.insert_posts(entries(1, [post(1)]))
    first.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # it ends without a checkpoint
    with disk.failing("sync", apsw.SQLITE_IOERR_FSYNC), pytest.raises(apsw.IOError):
        first.insert_posts(entries(2, [post(2)]))
    first.close()
    lost = JournalDatabase.open(disk.after_power_loss(home, tmp_path / "before"))
    assert [entry.seq for entry in lost.posts(0, EVERYTHING)] == [1]
    lost.close()
    async with journal(home, vfs=disk.name) as opened:
        assert len(await opened.bodies()) == 2
        await opened.append(post(3))
        await _assert_durable(disk.after_power_loss(home, tmp_path / "after"), [post(1).body, post(3).body])


async def test_stale_handles_are_reopened(tmp_path: Path, disk: FaultyDisk) -> None:
    """A disk that was removed and came back is used again, although the old handles stay broken."""
    async with journal(tmp_path, vfs=disk.name) as opened:
        taken = await fill(opened, range(5))
        disk.make_handles_stale()
        await _refused(opened, 5)
        await _healed(opened)
        taken += await fill(opened, range(6, 9))
        assert await opened.bodies() == taken


async def test_posts_are_taken_while_some_cannot_be_read(tmp_path: Path, disk: FaultyDisk) -> None:
    """A bad sector holds up only those who read it. If it stays bad, its posts count as lost, and the rest is delivered."""
    clock = FakeClock()
    async with journal(tmp_path) as opened:
        taken = await fill(opened, range(200), 2_000)
    async with journal(tmp_path, vfs=disk.name, clock=clock) as opened:
        disk.bad = ((tmp_path / FILE).stat().st_ino, range(20 * PAGE_SIZE, 21 * PAGE_SIZE))
        for _ in range(3):
            with pytest.raises(JournalUnavailable, match="can't be read"):
                await opened.bodies()
            clock.now += FROM_THE_FILE.unreadable / 3
        taken += await fill(opened, [200])
        found = await _persist(opened)
        lost = opened.count("journal_lost_posts")
        assert disk.hits["read"] > 3
        assert 1 <= lost <= 8
        assert len(found) == 201 - lost
        assert [body for body in taken if body in found] == found


async def _persist(opened: Journal) -> list[bytes]:
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                return await opened.bodies()
            except JournalError:
                await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_the_log_does_not_grow_without_limit(tmp_path: Path, disk: FaultyDisk) -> None:
    """If the log can be written but not the file, SQLite reports nothing. Beyond a limit, posts are refused."""
    # without automatic checkpoints, since apsw would report errors of this VFS
    tuning = replace(FROM_THE_FILE, log_limit=8 * 2**20, checkpoint_pages=0)
    async with journal(tmp_path, vfs=disk.name, tuning=tuning) as opened:
        number = 0
        with disk.failing("write", apsw.SQLITE_FULL, only=FILE):
            with suppress(JournalUnavailable):
                while number < 1_000:
                    number += len(await fill(opened, [number], 100_000))
            assert number > 50
            assert opened.refusing
        await _healed(opened)
        assert len(await opened.bodies()) >= number


async def test_dropped_posts_are_counted_when_that_is_durable(tmp_path: Path, disk: FaultyDisk) -> None:
    """Posts that a failed transaction would have dropped are still there, and are not counted."""
    async with journal(tmp_path, vfs=disk.name, max_size="1MiB", when_full="drop-oldest") as opened:
        while opened.count("journal_dropped_posts") == 0:
            await fill(opened, [len(await opened.bodies())], 20_000)
        before, dropped = await opened.bodies(), opened.count("journal_dropped_posts")
        with disk.failing("sync", apsw.SQLITE_IOERR_FSYNC):
            outcomes = await asyncio.gather(*(opened.append(post(n, 20_000)) for n in range(30)), return_exceptions=True)
        assert all(isinstance(outcome, JournalUnavailable) for outcome in outcomes)
        assert await opened.bodies() == before
        assert opened.count("journal_dropped_posts") == dropped
        assert (await opened.outlet("a").cursor())[0].seq == opened.first_seq()


async def test_a_bug_in_maintenance_does_not_end_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong on the journal's thread, posts are taken afterwards."""
    calls: list[int] = []

    def broken(post_log: PostLog) -> bool:
        calls.append(1)
        raise ZeroDivisionError

    monkeypatch.setattr(PostLog, "maintain", broken)
    async with journal(tmp_path) as opened:
        await until_async(lambda: len(calls) > 1, "maintenance was tried")
        assert await fill(opened, range(3)) == await opened.bodies()


async def test_the_free_bytes_are_measured_while_the_disk_fails(tmp_path: Path, disk: FaultyDisk) -> None:
    """A disk that is full is seen as such, and room that comes back is seen before the journal works again."""
    async with journal(tmp_path, vfs=disk.name) as opened:
        with disk.failing("write", apsw.SQLITE_FULL):
            await _refused(opened, 1)
            opened.metrics.journal_free.set(-1)
            await until_async(lambda: opened.metrics.summary()["journal_free_bytes"] != -1, "measured")
            assert opened.refusing


async def test_an_opening_that_is_cancelled_closes_again(tmp_path: Path) -> None:
    """At whichever step: no thread is left, and the directory can be used at once."""
    for steps in range(4):
        new = SqliteJournal(SqliteSettings(directory=str(tmp_path)), {"a": "oldest"}, Metrics(), 0)
        opening = asyncio.create_task(new.open())
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert "journal" not in [thread.name for thread in threading.enumerate()]
    async with journal(tmp_path) as opened:
        await fill(opened, range(1))
