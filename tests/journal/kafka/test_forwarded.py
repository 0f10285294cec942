"""How far a spill was forwarded: what is remembered while its disk takes nothing, and what is saved."""

import random
from collections import Counter
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed.journal.base import Commit, Cursor, JournalUnavailable
from btfeed.journal.kafka import spill as spills
from btfeed.journal.kafka import spilled_letters
from btfeed.journal.kafka.forwarded import Forwarded, Run
from btfeed.journal.kafka.spill import CONSUMER
from btfeed.journal.sqlite.journal import SqliteOutlet
from tests.journal.journals import journal, post
from tests.journal.kafka.spills import Taker, forwarding, opened, rejected
from tests.support.harness import until_async

UNSAVED = "can't save what was forwarded from the spill, retrying"


class Disk:
    """Where progress is saved, or not. failed: how often it was not."""

    def __init__(self) -> None:
        self.full = False
        self.failed = 0


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found, commit = Disk(), SqliteOutlet.commit

    async def save(outlet: SqliteOutlet, what: Commit) -> None:
        if found.full:
            found.failed += 1
            raise JournalUnavailable("the disk is full")
        await commit(outlet, what)

    monkeypatch.setattr(SqliteOutlet, "commit", save)
    return found


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other quickly."""
    monkeypatch.setattr(spills, "PAUSE", 0.001)
    monkeypatch.setattr(spilled_letters, "PAUSE", 0.001)


async def failures(disk: Disk, number: int) -> None:
    """Wait until saving has failed this many more times."""
    wanted = disk.failed + number
    await until_async(lambda: disk.failed >= wanted, "attempts to save")


async def test_posts_are_sent_once_while_the_disk_is_full(tmp_path: Path, disk: Disk) -> None:
    """Those that come later, too. It is told once. As soon as it can be, it is saved: the next run sends none of them."""
    taker = Taker()
    posts = [post(number) for number in range(40)]
    disk.full = True
    async with opened(tmp_path, taker) as (spill, _):
        for each in posts[:30]:
            await spill.append(each)
        with capture_logs() as logs:
            async with forwarding(spill):
                await failures(disk, 20)
                for each in posts[30:]:
                    await spill.append(each)
                await until_async(lambda: taker.forwarded == 40, "those that came later")
                await failures(disk, 20)
                assert (spill.posts, taker.attempts, Counter(taker.posts)) == (0, 40, Counter(posts))
                disk.full = False
                await until_async(lambda: any(line["event"].startswith("saved") for line in logs), "saved")
        said = {line["event"]: line for line in logs if line["log_level"] != "debug"}
        assert [line["event"] for line in logs].count(UNSAVED) == 1
        assert said[UNSAVED]["error"] == "the disk is full"
        assert said["saved what was forwarded from the spill"]["posts"] == 40
    async with opened(tmp_path, taker) as (spill, _):
        assert spill.posts == 0


async def test_the_end_saves_what_could_not_be_saved(tmp_path: Path, disk: Disk) -> None:
    """If it can. Otherwise the next run sends those posts again, as the log has said."""
    taker = Taker()
    for full, left in ((True, 5), (False, 0)):
        disk.full = True
        async with opened(tmp_path, taker) as (spill, _):
            if not spill.posts:
                for number in range(5):
                    await spill.append(post(number))
            async with forwarding(spill):
                await until_async(lambda: not spill.posts, "all forwarded")
            disk.full = full
        async with opened(tmp_path, taker) as (spill, _):
            assert spill.posts == left


async def test_a_post_that_may_be_in_a_partition_is_sent_to_no_other_while_the_disk_is_full(
    tmp_path: Path, disk: Disk
) -> None:
    """It would be delivered twice."""
    taker = Taker()
    taker.fails, taker.sent_to = 1, 2
    disk.full = True
    async with opened(tmp_path, taker) as (spill, _):
        await spill.append(post(1))
        async with forwarding(spill):
            await until_async(lambda: not spill.posts, "forwarded")
    assert [place for *_, place in taker.taken] == [2]


async def test_a_post_too_large_is_kept_once_the_disk_takes_it(tmp_path: Path, disk: Disk) -> None:
    """It waits in the spill until then, and is counted once."""
    taker = Taker()
    disk.full = True
    async with opened(tmp_path, taker) as (spill, metrics):
        await spill.append(post(1, 20_000))
        async with forwarding(spill):
            await failures(disk, 10)
            assert (spill.posts, metrics.dead_letters.labels("", "too_large")._value.get()) == (1, 0)
            disk.full = False
            await until_async(lambda: not spill.posts, "kept")
        assert metrics.dead_letters.labels("", "too_large")._value.get() == 1


async def test_refused_posts_are_sent_once_while_the_disk_is_full(tmp_path: Path, disk: Disk) -> None:
    """They are deleted as soon as they can be."""
    taker = Taker()
    disk.full = True
    async with opened(tmp_path, taker) as (spill, _):
        for number in range(5):
            await spill.refused.add(rejected(number))
        async with forwarding(spill):
            await failures(disk, 20)
            assert len(taker.letters) == 5
            disk.full = False
            await until_async(lambda: not spill.waiting, "deleted")
    assert len(taker.letters) == 5


async def test_the_next_run_knows_what_was_sent_behind_a_post_that_is_left(tmp_path: Path) -> None:
    """And where that post may be. A rejected post that was sent meanwhile changes nothing of it."""
    taker = Taker()
    taker.stuck = 3
    async with opened(tmp_path, taker) as (spill, _):
        for number in range(2):
            await spill.append(post(number), partition=3 - number)
        async with forwarding(spill):
            await until_async(lambda: taker.forwarded == 1, "the other one")
            await spill.refused.add(rejected(1))
            await until_async(lambda: not spill.refused.number, "the rejected one")
    async with opened(tmp_path, taker) as (spill, _):
        assert spill.posts == 1
        taker.stuck = None
        async with forwarding(spill):
            await until_async(lambda: not spill.posts, "all forwarded")
    assert [(each.body, place) for each, _, place in taker.taken] == [(post(1).body, 2), (post(0).body, 3)]


async def test_a_post_that_is_left_keeps_no_others_on_the_disk(tmp_path: Path) -> None:
    """It is moved to the end once there are more of them, so that the room for posts does not run out."""
    taker = Taker()
    taker.stuck = 3
    async with opened(tmp_path, taker) as (spill, _):
        await spill.append(post(0), partition=3)
        for number in range(1, 10):
            await spill.append(post(number))
        async with forwarding(spill):
            await until_async(lambda: taker.forwarded == 9 and taker.attempts > 12, "the others")
        assert spill.posts == 1
    async with journal(tmp_path, (CONSUMER,)) as left:
        cursor, _ = await left.outlet(CONSUMER).cursor()
        assert cursor.seq > 10


def test_what_is_left_is_found_again() -> None:
    """Whatever is done and left in whichever order, before and after it was saved."""
    chance = random.Random(1)
    forwarded, left = Forwarded(Cursor(1), None), dict[int, int | None]()
    for _ in range(3_000):
        seq, place = chance.randrange(1, min(forwarded.next + 2, 60)), chance.choice([None, 1, 2])
        if seq == forwarded.next or seq in left:
            if chance.random() < 0.5:
                forwarded.done(seq)
                left.pop(seq, None)
            else:
                forwarded.leave(seq, place)
                left[seq] = place
        forwarded = Forwarded(*forwarded.position) if chance.random() < 0.1 else forwarded
        assert {each: forwarded.partition(each) for each in range(60) if forwarded.is_left(each)} == left
        assert forwarded.number_left == len(left)
        assert forwarded.position[0] == Cursor(min(left, default=forwarded.next))
        assert forwarded.first_left(seq) == min((each for each in left if each >= seq), default=None)


def test_posts_that_are_left_together_are_saved_together() -> None:
    """As a run: there may be very many."""
    forwarded = Forwarded(Cursor(5), None)
    for seq in range(5, 1_000):
        forwarded.leave(seq, None)
    assert forwarded.left == [Run(5, 999, None)]
    assert not forwarded.sparse
    for seq in range(5, 800):
        forwarded.done(seq + 100)
    assert forwarded.left == [Run(5, 104, None), Run(900, 999, None)]
    assert forwarded.sparse
