"""One outlet: what it reads ahead, passes over and counts."""

import asyncio

import pytest

from btfeed.journal.base import LATEST, Backlog, Commit, Cursor, JournalUnavailable, Move
from btfeed.journal.kafka.consumer import Saved
from btfeed.journal.kafka.metadata import Metadata
from btfeed.journal.kafka.outlet import KafkaOutlet
from btfeed.journal.kafka.progress import REPEAT_TIME, REPEATS, Progress
from btfeed.journal.kafka.reading import LOOK_BACK, MAX_BYTES, MAX_RECORDS
from btfeed.telemetry.samples import total
from tests.journal.drivers import read_all
from tests.journal.journals import post
from tests.journal.kafka.fake_consumer import FakeBrokers, group_of, outlet_of, place, posts
from tests.support.clock import settle
from tests.support.harness import DEADLINE, until_async


async def seqs(outlet: KafkaOutlet, seq: int | None = None) -> list[int]:
    return [entry.seq for entry in await read_all(outlet, seq)]


# Reading ahead


async def test_reading_ahead_is_bounded() -> None:
    """In bytes of bodies: a sink that is down costs no more memory. Reading goes on as posts are taken."""
    brokers = FakeBrokers()
    brokers.add(*(post(number, 2 * MAX_BYTES // MAX_RECORDS) for number in range(1_100)))
    async with outlet_of(brokers) as (it, outlet):
        await until_async(lambda: it.consumer.position(place(0)), "posts read")
        await settle()
        assert it.consumer.position(place(0)) == MAX_RECORDS
        assert await seqs(outlet) == list(range(1_100))


async def test_what_was_read_is_read_again_from_where_it_is_wanted() -> None:
    """An operator, or a delivery that begins again, may go back or skip some."""
    brokers = FakeBrokers()
    brokers.add(*posts(*range(20)))
    async with outlet_of(brokers) as (_, outlet):
        for first in (0, 5, 5, 17, 3):
            assert await seqs(outlet, first) == list(range(first, 20))
        assert await outlet.read(20, 100) == []
        assert await outlet.read(25, 100) == []


async def test_a_wait_ends_with_the_post() -> None:
    """Whether it is there already or comes later."""
    brokers = FakeBrokers()
    brokers.add(*posts(1))
    async with outlet_of(brokers) as (_, outlet):
        await asyncio.wait_for(outlet.wait(0), DEADLINE)
        waiting = asyncio.create_task(outlet.wait(1))
        await settle()
        assert not waiting.done()
        brokers.add(*posts(2))
        await asyncio.wait_for(waiting, DEADLINE)


async def test_a_wait_ends_with_a_post_that_somebody_else_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read may get it before the wait looks."""
    brokers = FakeBrokers()
    async with outlet_of(brokers) as (_, outlet):
        reader = outlet._reader
        waiting = asyncio.create_task(outlet.wait(0))
        await settle()
        change = reader._change

        def take_at_once() -> None:
            change()
            reader.take(MAX_BYTES)

        monkeypatch.setattr(reader, "_change", take_at_once)
        brokers.add(*posts(1))
        await asyncio.wait_for(waiting, DEADLINE)


# Offsets without posts


async def test_marks_of_transactions_are_no_posts() -> None:
    """They take offsets: a sink that is behind all posts has no backlog, wherever its cursor is."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2))
    brokers.add_mark()
    brokers.add(*posts(3))
    brokers.add_mark()
    brokers.add_mark()
    async with outlet_of(brokers) as (_, outlet):
        assert await seqs(outlet) == [0, 1, 3]
        assert (await outlet.backlog()).posts == 3
        await outlet.commit(Commit(Cursor(2)))
        assert (await outlet.backlog()).posts == 1
        await outlet.commit(Commit(Cursor(4)))
        assert await outlet.backlog() == Backlog(0, 0.0)
        assert await outlet.read(4, 100) == []
        brokers.add(*posts(4))
        await asyncio.wait_for(outlet.wait(4), DEADLINE)
        assert [entry.seq for entry in await outlet.read(4, 100)] == [6]
        assert (await outlet.backlog()).posts == 1


async def test_a_partition_with_nothing_but_marks_is_empty() -> None:
    """And a read of it ends."""
    brokers = FakeBrokers()
    brokers.add_mark()
    async with outlet_of(brokers) as (_, outlet):
        assert await outlet.read(0, 100) == []
        assert await outlet.backlog() == Backlog(0, 0.0)


def test_progress_knows_posts_and_gaps() -> None:
    """Also after reading again from somewhere."""
    progress = Progress(10)
    progress.post(12, 1_000)  # 10 and 11 have none
    progress.post(13, 2_000)
    progress.nothing_before(20)
    assert (progress.count(10, 20), progress.count(13, 20), progress.count(13, 25)) == (2, 1, 6)
    assert (progress.oldest(10), progress.oldest(13), progress.oldest(14)) == (1_000, 2_000, None)
    progress.read_again(15)
    assert (progress.count(10, 20), progress.oldest(10)) == (7, 1_000)
    progress.read_again(12)
    assert (progress.count(10, 20), progress.oldest(10)) == (8, None)
    progress.post(12, 1_000)
    progress.forget_before(12)
    assert (progress.count(12, 13), progress.oldest(12)) == (1, 1_000)
    progress.read_again(30)
    assert (progress.count(30, 32), progress.oldest(12)) == (2, None)


# Posts that came twice


async def test_a_post_that_came_twice_is_delivered_once() -> None:
    """Its repetition is passed over and counted, and is no backlog."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2, 1, 3, 2, 2))
    async with outlet_of(brokers) as (it, outlet):
        assert await seqs(outlet) == [0, 1, 3]
        assert total(it.metrics.kafka_journal.repeated_posts) == 3
        await outlet.commit(Commit(Cursor(4)))
        assert await outlet.backlog() == Backlog(0, 0.0)


async def test_copies_of_what_was_delivered_before_the_assignment_are_passed_over() -> None:
    """What makes copies, such as a broker that dies or a receiver that does, often moves partitions, too. Posts just before
    the cursor are read for that, and given to nobody; a damaged one among them is no second dead letter."""
    brokers = FakeBrokers()
    brokers.add(*posts(*range(LOOK_BACK + 5)), *posts(LOOK_BACK, 999, 2))
    brokers.messages[place(0)][LOOK_BACK + 1].value = b"damaged"
    brokers.saved[place(0)] = Saved(LOOK_BACK + 3, Metadata().text())
    async with outlet_of(brokers) as (it, outlet):
        assert await seqs(outlet) == [LOOK_BACK + 3, LOOK_BACK + 4, LOOK_BACK + 6, LOOK_BACK + 7]
        assert total(it.metrics.kafka_journal.repeated_posts) == 1
        assert total(it.metrics.journal_damaged_posts) == 0
        assert (await outlet.backlog()).posts == 4


async def test_what_is_deleted_before_the_cursor_meanwhile_is_no_loss() -> None:
    """Retention may pass the place where the reading of known posts began."""
    brokers = FakeBrokers()
    brokers.add(*posts(*range(20)))
    brokers.saved[place(0)] = Saved(10, Metadata().text())
    async with outlet_of(brokers) as (it, outlet):
        await outlet.wait(10)
        it.consumer.seek(place(0), 3)
        brokers.first[place(0)] = 5
        brokers.add(*posts(20))
        await until_async(lambda: it.consumer.position(place(0)) == 21, "read to the end")
        assert await seqs(outlet) == list(range(10, 21))
        assert total(it.metrics.journal_dropped_posts) == 0


async def test_a_post_that_is_sent_again_on_purpose_is_delivered_again() -> None:
    """By an operator from the dead letters, or by a replay some time later."""
    brokers = FakeBrokers()
    first = post(1)
    later = first._replace(received=first.received + REPEAT_TIME + 1)
    brokers.add(first, first._replace(peer="dead-letter"), later)
    async with outlet_of(brokers) as (_, outlet):
        assert await seqs(outlet) == [0, 1, 2]


async def test_only_the_last_posts_are_remembered() -> None:
    """A bound on memory."""
    brokers = FakeBrokers()
    brokers.add(*(post(number, 30) for number in range(REPEATS + 1)), post(0, 30), post(REPEATS, 30))
    async with outlet_of(brokers) as (_, outlet):
        assert (await seqs(outlet))[-2:] == [REPEATS, REPEATS + 1]


async def test_what_was_skipped_is_no_repetition() -> None:
    """A post that was read ahead, and never delivered since an operator skipped it, is delivered when it comes again."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2, 1))
    async with outlet_of(brokers) as (_, outlet):
        assert await seqs(outlet) == [0, 1]
        await outlet.move(Cursor(2))
        assert await seqs(outlet) == [2]


async def test_copies_of_what_was_delivered_are_passed_over_by_a_delivery_that_begins_again() -> None:
    """As after a pause: it reads again what was not saved, and what was saved is still known."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2, 3))
    async with outlet_of(brokers) as (_, outlet):
        assert await seqs(outlet) == [0, 1, 2]
        await outlet.commit(Commit(Cursor(2)))
        brokers.add(*posts(1, 3, 4))
        assert await seqs(outlet, 2) == [2, 5]


async def test_the_cursor_passes_copies_at_the_end() -> None:
    """Once the sink is done with all before them, also if no other post comes. Otherwise the sink would seem to be behind
    for ever. The sink's state stays as it is."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2, 1))
    async with outlet_of(brokers) as (it, outlet):
        assert await seqs(outlet) == [0, 1]
        await outlet.commit(Commit(Cursor(1, 7), "state"))
        await settle()
        assert brokers.saved[place(0)].offset == 1
        await outlet.commit(Commit(Cursor(2), "state"))
        for end in (3, 4):
            await until_async(lambda end=end: brokers.saved[place(0)].offset == end, "saved")  # type: ignore[misc]
            assert await outlet.cursor() == (Cursor(end), "state")
            brokers.add(*posts(2))
        await outlet.commit(Commit(Cursor(2), "late"))
        assert (await outlet.cursor())[0].seq >= 4
    assert total(it.metrics.kafka_journal.repeated_posts) == 3


async def test_a_cursor_that_can_not_be_saved_passes_copies_later() -> None:
    """The brokers may be away for a while."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 1))
    async with outlet_of(brokers) as (it, outlet):
        failures = [JournalUnavailable("the brokers are away")] * 2

        async def fail() -> None:
            if failures:
                raise failures.pop()

        assert await seqs(outlet) == [0]
        await until_async(lambda: total(it.metrics.kafka_journal.repeated_posts), "the copy is read")
        await outlet.commit(Commit(Cursor(1)))
        it.consumer.saving = fail
        brokers.add(*posts(1))
        await until_async(lambda: brokers.saved[place(0)].offset == 3, "saved")
        assert not failures


# Damage


async def test_a_damaged_post_becomes_a_dead_letter() -> None:
    """Before anything behind it is given. It is tried until the brokers have it."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2, 3))
    brokers.messages[place(0)][1].value = b"damaged"
    async with group_of(brokers) as it:
        it.letters.failures = 2
        await it.joined()
        (outlet,) = await it.assigned(place(0))
        assert await seqs(outlet) == [0, 2]
        (letter,) = it.letters.posts
        assert (letter.kind, letter.sink, letter.cause, letter.body) == ("post", "", "damaged", b"damaged")
        assert total(it.metrics.journal_damaged_posts) == 1
        assert await seqs(outlet, 0) == [0, 2]
        assert len(it.letters.posts) == 1


# Saving


async def test_the_state_of_another_process_is_carried_along() -> None:
    """A sink is told only its own, which it may have saved weeks ago."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2))
    brokers.saved[place(0)] = Saved(1, Metadata(3, {"two": "theirs", "one": "ours"}).text())
    async with outlet_of(brokers) as (_, outlet):
        assert await outlet.cursor() == (Cursor(1, 3), "ours")
        await outlet.commit(Commit(Cursor(2), "new"))
        assert Metadata.parse(brokers.saved[place(0)].metadata) == Metadata(0, {"two": "theirs", "one": "new"})


async def test_dead_letters_are_durable_before_the_offset() -> None:
    """Whatever happens to the letters, nothing is saved without them."""
    brokers = FakeBrokers()
    brokers.add(*posts(1))
    async with outlet_of(brokers) as (it, outlet):

        async def fail(sink: str, partition: int, commit: Commit) -> None:
            raise JournalUnavailable("the brokers are away")

        it.letters.apply = fail  # type: ignore[method-assign]
        with pytest.raises(JournalUnavailable):
            await outlet.commit(Commit(Cursor(1)))
        assert brokers.saved[place(0)].offset == 0
        assert (await outlet.cursor())[0] == Cursor(0)


# Elsewhere


async def test_what_a_move_means_counts_posts() -> None:
    """Not the offsets that have none, as far as they are known."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2))
    brokers.add_mark()
    brokers.add(*posts(3))
    async with outlet_of(brokers) as (_, outlet):
        assert await seqs(outlet) == [0, 1, 3]
        received = post(1).received
        assert await outlet.plan(await outlet.find(LATEST)) == Move(0, Cursor(4), 0, 3, received)
        await outlet.commit(Commit(Cursor(4)))
        assert await outlet.find(received) == 0
        assert (await outlet.plan(3)).again == 1


async def test_a_move_goes_to_what_is_left() -> None:
    """What was deleted since the plan can't be given again."""
    brokers = FakeBrokers()
    brokers.add(*posts(*range(10)))
    async with outlet_of(brokers) as (_, outlet):
        await outlet.commit(Commit(Cursor(10), "state"))
        brokers.first[place(0)] = 4
        await outlet.move(Cursor(2))
        assert await outlet.cursor() == (Cursor(4), "state")
        assert await seqs(outlet) == list(range(4, 10))


async def test_an_outlet_that_has_ended_tells_its_last_backlog() -> None:
    """For the page, while the sink is stopped."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2))
    async with outlet_of(brokers) as (it, outlet):
        before = await outlet.backlog()
        await it.consumer.revoke()
        assert (await outlet.backlog()).posts == before.posts == 2
