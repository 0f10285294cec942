"""Delivery to a sink that works, stops, and comes back: order, cursors, dead letters, and the numbers shown of it."""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from btfeed.delivery import loop as delivery
from btfeed.delivery import offsets as settlement
from btfeed.delivery.batching import FilterSettings
from btfeed.journal.base import Cursor, DeadLetter
from btfeed.journal.sqlite.journal import SqliteJournal, SqliteSettings
from btfeed.telemetry.metrics import Metrics
from sinks.base import BatchRefused, WriteResult
from sinks.batch import Batch
from tests.support import posts
from tests.support.fakes import FakeJournal, FakeSink, Rig, SerialFakeSink, post
from tests.support.harness import until_async


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "LOOK_AGAIN", 0.05)
    monkeypatch.setattr(settlement, "COMMIT_RETRY", 0.01)


async def test_every_record_is_written_once_and_the_cursor_is_behind_it() -> None:
    """Posts come out in order, are counted, and the cursor ends behind the last."""
    sink = FakeSink()
    async with Rig(sink) as rig:
        bodies = [body for seed in range(5) for body in await rig.post(7, seed)]
        await rig.saved(6)
        assert rig.delivery.status.state == "running"
        assert rig.sample("sink_up") == 1
    assert sink.bodies == bodies
    assert rig.sample("sink_delivered_total") == rig.delivery.status.delivered == 35
    assert rig.sample("sink_delivered_bytes_total") == sum(len(body) + 1 for body in bodies)
    assert rig.sample("sink_batch_seconds_count") == len(sink.writes)
    assert (rig.delivery.status.state, rig.sample("sink_up"), sink.closed) == ("stopped", 0, 1)


async def test_the_cursor_waits_for_the_first_of_those_in_flight() -> None:
    """Batches that finish out of order move the cursor only over the contiguous run that is settled."""
    first = asyncio.Event()

    async def slow(batch: Batch) -> WriteResult:
        await first.wait()
        return WriteResult()

    sink = FakeSink(slow)
    async with Rig(sink, in_flight=3, max_records=5) as rig:
        bodies = await rig.post(5, 0) + await rig.post(5, 1) + await rig.post(5, 2)
        await until_async(lambda: len(sink.bodies) == 10, "the two others are written")
        assert rig.journal.saved == {}
        first.set()
        await rig.saved(4)
    assert sorted(sink.bodies) == sorted(bodies)
    assert sink.most_at_once > 1


async def test_a_batch_that_is_stuck_holds_up_the_others_after_a_window() -> None:
    """What comes again after a crash is bounded: two batches for each in flight, however long one is stuck."""
    first = asyncio.Event()

    async def stuck(batch: Batch) -> WriteResult:
        await first.wait()
        return WriteResult()

    sink = FakeSink(stuck)
    async with Rig(sink, in_flight=2, max_records=1) as rig:
        await rig.post(20)
        await until_async(lambda: len(sink.writes) == 4, "the window is full")
        await rig.post(1, 1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(sink.writes) == 4
        first.set()
        await rig.saved(3)
    assert len(sink.bodies) == 21


async def test_a_serial_sink_has_its_state_saved_before_each_write() -> None:
    """One batch at a time, each after the commit that carries the state of the one before."""
    seen: list[tuple[int, str | None]] = []
    journal = FakeJournal()

    def look(batch: Batch) -> WriteResult:
        seen.append((len(sink.bodies), journal.saved.get("sink", (None, None))[1]))
        return WriteResult()

    sink = SerialFakeSink(always=look)
    async with Rig(sink, serial=True, journal=journal, max_records=3) as rig:
        await rig.post(30)
        await rig.saved(2)
    assert len(seen) >= 11
    assert all(state == (str(written) if write else None) for write, (written, state) in enumerate(seen))


async def test_the_first_batch_of_a_serial_sink_is_empty() -> None:
    """So that a state is saved before there is a record: a crash in the first write is told from a new journal."""
    sink = SerialFakeSink()
    async with Rig(sink, serial=True) as rig:
        await until_async(lambda: rig.journal.saved, "a state is saved before any post came")
        assert rig.journal.saved["sink"] == (Cursor(1), "0")
        bodies = await rig.post(3)
        await rig.saved(2)
    assert [len(batch) for batch in sink.writes] == [0, 3]
    assert sink.bodies == bodies


async def test_a_sink_is_called_again_after_the_time_it_asked_for() -> None:
    """With an empty batch, without a post, also where what came meanwhile was all held back."""
    sink = SerialFakeSink(WriteResult(), WriteResult(again_after=0.02), WriteResult())
    async with Rig(sink, serial=True) as rig:
        await rig.post(1)
        await until_async(lambda: len(sink.writes) == 3, "the sink is called again")
        await rig.post(1, 1)
        await rig.saved(3)
    assert [len(batch) for batch in sink.writes] == [0, 1, 0, 1]


async def test_an_expired_batch_does_not_make_it_forget_to_call_again() -> None:
    """A batch of which nothing is left to write changes nothing in when the sink wants to be called."""
    sink = SerialFakeSink(WriteResult(again_after=0.2), WriteResult())
    async with Rig(sink, serial=True, max_age="1h") as rig:
        await rig.post(1)
        await rig.saved(2)
        await until_async(lambda: len(sink.writes) == 2, "the sink is called again")
    assert [len(batch) for batch in sink.writes] == [0, 0]


async def test_records_that_are_too_old_become_dead_letters() -> None:
    """By their own timestamp; the others of the batch are delivered."""
    sink = FakeSink()
    async with Rig(sink, max_age="1h") as rig:
        await rig.journal.append(post(posts.mixed(2)))
        await rig.journal.append(post(posts.mixed(3, start=round(time.time() * 1000) - 60_000)))
        await rig.saved(3)
    letters = list(rig.journal.letters.values())
    assert [len(sink.bodies), len(letters)] == [3, 2]
    assert {letter.reason for letter in letters} == {"expired: older than 3600 s"}
    assert letters[0].sink == "sink"
    assert letters[0].event_id
    assert rig.sample("dead_letters_total", reason="expired") == rig.delivery.status.dead_letters == 2


async def test_a_filter_holds_back_and_the_cursor_passes() -> None:
    """What the filter holds back is counted, not written, and does not come again."""
    sink = FakeSink()
    async with Rig(sink, filter=FilterSettings(category=["visit"])) as rig:
        await rig.post(6)
        await rig.post(1, 1)
        await rig.saved(3)
    assert all(b'"event.category":"visit"' in body for body in sink.bodies)
    assert rig.sample("sink_filtered_total") == 7 - len(sink.bodies) > 0
    assert sum(map(len, sink.writes)) == len(sink.bodies)


async def test_a_sink_that_hangs_does_not_slow_another() -> None:
    """Two sinks share the journal and the feed, and nothing else."""

    async def hang(batch: Batch) -> WriteResult:
        await asyncio.Event().wait()
        raise AssertionError

    journal, good = FakeJournal(), FakeSink()
    stuck = Rig(FakeSink(always=hang), journal=journal, name="stuck", max_records=1)
    async with Rig(good, journal=journal, name="good", feed=stuck.feed) as rig:
        task = asyncio.create_task(stuck.delivery.run())
        for seed in range(50):
            await rig.post(3, seed)
        await rig.saved(51)
        assert len(good.bodies) == 150
        assert "stuck" not in journal.saved
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_could_not_be_mapped_is_saved_with_the_cursor() -> None:
    """The dead letters of a post come in the commit that passes it, once however many sinks there are."""
    journal = FakeJournal()
    async with Rig(FakeSink(), journal=journal) as rig, Rig(FakeSink(), journal=journal, name="b", feed=rig.feed) as other:
        await journal.append(post(b"\x00 no post"))
        await rig.post(2)
        await rig.saved(3)
        await other.saved(3)
    assert [(letter.kind, letter.sink) for letter in journal.letters.values()] == [("post", "")]
    assert {commit.cursor for commit in journal.commits if commit.dead_letters} <= {Cursor(2), Cursor(3)}


async def test_dead_letters_are_tried_again_once() -> None:
    """Those that a person marked are written, and forgotten when that is saved; those refused again stay, and say why."""
    sink = FakeSink(WriteResult(refused={0: "too big", 2: "odd"}), WriteResult(refused={1: "still odd"}))
    async with Rig(sink) as rig:
        bodies = await rig.post(4)
        await rig.saved(2)
        rig.journal.retry = set(rig.journal.letters)
        assert len(rig.journal.retry) == 2
        await until_async(lambda: not rig.journal.retry, "they were tried again")
    assert sink.bodies == [bodies[1], bodies[3], bodies[0]]
    assert [(letter.reason, letter.tries) for letter in rig.journal.letters.values()] == [("still odd", 2)]
    assert rig.journal.saved["sink"][0] == Cursor(2)
    assert rig.sample("dead_letters_total", reason="refused") == 2


async def test_a_dead_letter_whose_success_is_not_saved_yet_is_not_tried_twice() -> None:
    """However long the commit takes, and whatever the journal answers meanwhile."""
    sink = FakeSink(WriteResult(refused={0: "no"}))
    async with Rig(sink) as rig:
        bodies = await rig.post(1)
        await rig.saved(2)
        rig.journal.failing = {"commit"}
        rig.journal.retry = set(rig.journal.letters)
        await until_async(lambda: len(rig.journal.failed) >= 3, "the commit failed", 10)
        rig.journal.failing = set()
        await until_async(lambda: not rig.journal.letters, "the dead letter is gone")
    assert sink.bodies == bodies


class SlowJournal(FakeJournal):
    """Its answer to `retries` may be older than what was saved since."""

    answers = 0

    async def retries(self, sink: str, limit: int) -> Sequence[DeadLetter]:
        found = await super().retries(sink, limit)
        self.answers += 1
        await self._enter("answer")
        return found


async def test_an_answer_that_is_older_than_a_commit_does_not_double_a_dead_letter() -> None:
    """The journal was asked before it saved that the letter was delivered, and answers after that."""
    journal, sink = SlowJournal(), FakeSink(WriteResult(refused={0: "no"}))
    async with Rig(sink, journal=journal) as rig:
        bodies = await rig.post(1)
        await rig.saved(2)
        journal.held = {"commit"}
        journal.retry = set(journal.letters)
        await until_async(lambda: sink.bodies, "it is delivered, and not saved")
        answers, journal.held = journal.answers, {"commit", "answer"}
        await until_async(lambda: journal.answers > answers, "asked again")
        journal.held = {"answer"}
        await until_async(lambda: not journal.letters, "it is saved")
        answers, journal.held = journal.answers, set()
        await until_async(lambda: journal.answers > answers + 1, "asked twice more")
    assert sink.bodies == bodies


async def test_dead_letters_are_tried_again_in_batches_that_fit() -> None:
    """max_bytes and max_records hold for them too."""
    sink = FakeSink(always=BatchRefused("all of it"))
    async with Rig(sink, max_bytes="1500B") as rig:
        bodies = await rig.post(4)
        await until_async(lambda: len(rig.journal.letters) == 4, "all are dead letters")
        sink.always, written = WriteResult(), len(sink.writes)
        rig.journal.retry = set(rig.journal.letters)
        await until_async(lambda: not rig.journal.letters, "all were delivered")
    assert sorted(sink.bodies) == sorted(bodies)
    assert all(batch.nbytes <= 1500 for batch in sink.writes[written:])


async def test_dead_letters_of_a_real_journal_are_tried_again(tmp_path: Path) -> None:
    """Over SQLite, from the refusal to the retry."""
    settings = SqliteSettings(directory=str(tmp_path))
    journal = SqliteJournal(settings, {"sink": "oldest"}, Metrics(), 1000)
    await journal.open()
    sink = FakeSink(WriteResult(refused={1: "no"}))
    async with Rig(sink, journal=journal) as rig:  # type: ignore[arg-type]  # what is used of it both have
        await journal.append(post(posts.mixed(3)))
        await until_async(lambda: len(sink.bodies) == 2, "two are delivered")
        await until_async(lambda: rig.delivery.status.dead_letters == 1, "one is refused")
        with closing(sqlite3.connect(tmp_path / "journal.db")) as db, db:
            assert db.execute("UPDATE dead_letters SET retry = 1").rowcount == 1
        await until_async(lambda: len(sink.bodies) == 3, "the third is delivered")
    await journal.close()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        assert db.execute("SELECT count(*) FROM dead_letters").fetchone() == (0,)


@pytest.mark.parametrize("serial", [False, True])
async def test_a_restart_goes_on_where_the_last_one_saved(serial: bool) -> None:
    """Stopped between any two writes, nothing is lost, and nothing settled comes again."""
    journal = FakeJournal()
    sink = SerialFakeSink() if serial else FakeSink()
    expected: list[bytes] = []
    for seed in range(8):
        async with Rig(sink, serial=serial, journal=journal, max_records=3) as rig:
            expected.extend(await rig.post(10, seed))
            await until_async(lambda: len(sink.bodies) >= len(expected) - 5, "half of it is written")
    async with Rig(sink, serial=serial, journal=journal) as rig:
        await rig.saved(9)
    assert sink.bodies == expected
