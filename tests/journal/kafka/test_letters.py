"""Dead letters in topics of a real broker: what the contract suite can't know of more than one process."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition

from btfeed.journal import create
from btfeed.journal.base import ALL, Commit, Cursor, DeadLetter, JournalUnavailable, Kept, Selection
from btfeed.journal.kafka import groupless, letter_messages, letters
from btfeed.journal.kafka.journal import KafkaJournal
from btfeed.journal.kafka.letter_messages import UNREADABLE, letter_key
from btfeed.journal.kafka.letter_view import open_dead_letters
from btfeed.journal.kafka.names import Names
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.telemetry.metrics import Metrics
from tests.journal.journals import MAX_OCCURRENCES, dead_letter, wanting
from tests.journal.kafka.intakes import bodies_of, settings_for
from tests.journal.kafka.keeping import open_transaction, opened, produce
from tests.servers.kafka import Kafka, shared
from tests.support.clock import settle
from tests.support.harness import DEADLINE
from tests.support.posts import mixed

pytestmark = pytest.mark.kafka

MALFORMED = DeadLetter("post", "", "malformed", 5, b"nonsense", cause="malformed")
START = Cursor(1)


@pytest.fixture(scope="module")
def kafka() -> Kafka:
    return shared()


@pytest.fixture
def settings(kafka: Kafka) -> KafkaJournalSettings:
    return settings_for(kafka.bootstrap)


async def test_each_process_sees_what_others_do(settings: KafkaJournalSettings) -> None:
    """Letters, retries, deletes and pauses, at once: before it answers, it reads what the topics have."""
    async with opened(settings) as first, opened(settings) as second:
        await first.add(dead_letter(1), replace(dead_letter(2), destination="topic", cause="waiting"))
        assert await second.kept() == [Kept("a", "refused", 1, 1), Kept("a", "waiting", 1, 1)]
        assert await second.destinations("a", 0) == {"topic": 1}
        assert [each.event_id for each in await second.waiting("a", 0, "topic", 9)] == ["id-2"]
        with open_dead_letters(settings, MAX_OCCURRENCES) as command:
            ids = [each.id for each in command.select()]
            assert command.retry(Selection(ids=ids[:1]), wanting("a")) == 1
            assert [each.id for each in await second.retries("a", 9)] == ids[:1]
            command.delete(ids[1:])
        assert await first.destinations("a", 0) == {}
        await first.pause("a")
        since = await second.paused()
        assert list(since) == ["a"]
        await second.pause("a")
        assert await first.paused() == since
        await second.resume("a")
        assert await first.paused() == {}


async def test_what_one_process_did_with_a_retry_is_known_to_the_other(settings: KafkaJournalSettings) -> None:
    """A process that takes the partition over does not repeat it."""
    async with opened(settings) as first, opened(settings) as second:
        one, two, three = await first.add(*(dead_letter(number) for number in range(3)))
        with open_dead_letters(settings, MAX_OCCURRENCES) as command:
            assert command.retry(ALL, wanting("a")) == 3
        assert [each.id for each in await first.retries("a", 9)] == [one, two, three]
        await first.apply("a", -1, Commit(START, redelivered=[one], refused_again={two: "still"}))
        assert [each.id for each in await second.retries("a", 9)] == [three]
        assert [(each.id, each.tries) for each in await second.all()] == [(two, 2), (three, 1)]


async def test_the_offset_of_retries_is_that_of_the_first_mark_left(settings: KafkaJournalSettings) -> None:
    """Of each sink; the end of the topic if there is no mark."""
    async with opened(settings) as kept:
        one, two, other = await kept.add(dead_letter(1), dead_letter(2), dead_letter(3, "b"))
        assert (await kept.retried("a"), await kept.retried("b")) == (0, 0)
        with open_dead_letters(settings, MAX_OCCURRENCES) as command:
            assert command.retry(ALL, wanting("a", "b")) == 3
        assert (await kept.retried("a"), await kept.retried("b"), await kept.retried("c")) == (0, 2, 3)
        await kept.apply("a", -1, Commit(START, redelivered=[one]))
        assert (await kept.retried("a"), await kept.retried("b")) == (1, 2)
        await kept.apply("b", -1, Commit(START, redelivered=[other]))
        await kept.apply("a", -1, Commit(START, refused_again={two: "still"}))
        assert (await kept.retried("a"), await kept.retried("b")) == (3, 3)


async def test_what_is_written_again_after_a_crash_is_one_letter(settings: KafkaJournalSettings) -> None:
    """Under its first id where that was seen, and with one id for all who come later."""
    async with opened(settings) as kept:
        messages = await kept.messages("a", 0, Commit(START, None, [dead_letter(1), dead_letter(2)]))
        await kept.write(messages)
        before = await kept.find()
        again = await kept.messages("a", 0, Commit(START, None, [dead_letter(1, reason="again")]))
        assert again == []
        await kept.write(messages[:1])
        assert await kept.find() == before
    async with opened(settings) as later:
        assert sorted(each.event_id or "" for each in await later.all()) == ["id-1", "id-2"]
        assert await later.find() == before


async def test_letters_wait_in_the_partition_that_they_came_from(settings: KafkaJournalSettings) -> None:
    """So that each outlet retries its own, also after they were tried again."""
    async with opened(settings) as kept:
        for partition in (0, 2):
            waiting = replace(dead_letter(partition), destination="topic", cause="waiting")
            await kept.add(waiting, partition=partition)
        assert [await kept.destinations("a", each) for each in (-1, 0, 1, 2)] == [{}, {"topic": 1}, {}, {"topic": 1}]
        (found,) = await kept.waiting("a", 2, "topic", 9)
        await kept.apply("a", -1, Commit(START, waiting_again={found.id: ("another", "closed")}))
        assert [await kept.destinations("a", each) for each in (0, 2)] == [{"topic": 1}, {"another": 1}]


async def test_a_letter_that_comes_again_after_its_end_is_not_marked(settings: KafkaJournalSettings) -> None:
    """An operator's mark was for the one that is gone, also for a process that reads the topics later."""
    async with opened(settings) as kept:
        (number,) = await kept.add(dead_letter(1))
        with open_dead_letters(settings, MAX_OCCURRENCES) as command:
            assert command.retry(ALL, wanting("a")) == 1
        await kept.apply("a", -1, Commit(START, redelivered=[number]))
        (again,) = await kept.add(dead_letter(1))
        assert again != number
        assert await kept.retries("a", 9) == []
        async with opened(settings) as later:
            assert await later.retries("a", 9) == []
        with open_dead_letters(settings, MAX_OCCURRENCES) as command:
            assert command.retry(ALL, wanting("a")) == 1
        async with opened(settings) as later:
            assert [each.id for each in await later.retries("a", 9)] == [again]


async def test_damaged_letters_are_set_aside(kafka: Kafka, settings: KafkaJournalSettings) -> None:
    """Those that are no JSON, and those without a body. They wait for nothing, and are kept with the cause `damaged`."""
    async with opened(settings) as kept:
        empty = replace(dead_letter(1), body=b"", destination="topic", cause="waiting")
        await kept.add(empty, replace(dead_letter(2), destination="topic", cause="waiting"))
        produce(kafka.bootstrap, kept.names.dead_letters, (letter_key("a", "id-3"), b"nonsense"))
        assert [each.event_id for each in await kept.waiting("a", 0, "topic", 9)] == ["id-2"]
        found = {each.event_id: (each.cause, each.reason, each.destination) for each in await kept.all()}
        damaged = ("damaged", UNREADABLE, "")
        assert found == {"id-1": damaged, "id-2": ("waiting", "refused", "topic"), "id-3": damaged}
        assert kept.counted("dead_letters") == 1
        with open_dead_letters(settings, MAX_OCCURRENCES) as command:
            assert command.retry(Selection(cause="damaged"), wanting("a")) == 0
            command.delete([each.id for each in command.select(Selection(cause="damaged"))])
        assert [each.event_id for each in await kept.all()] == ["id-2"]


async def test_a_letter_that_its_topic_does_not_take_loses_its_body(kafka: Kafka, settings: KafkaJournalSettings) -> None:
    """It must not hold up its sink for ever. The others of its batch are kept whole."""
    kafka.make_topic(Names(settings.prefix).dead_letters, cleanup_policy="compact", max_message_bytes="20000")
    async with opened(settings) as kept:
        large = replace(dead_letter(2), body=b'{"timestamp":"2013-01-16T10:05:57.840Z","x":"%s"}' % (b"x" * 30_000))
        await kept.add(dead_letter(1), large, dead_letter(3))
        found = {each.event_id: (each.body, each.cause) for each in await kept.all()}
        assert found == {
            "id-1": (dead_letter(1).body, "refused"), "id-2": (b"", "damaged"), "id-3": (dead_letter(3).body, "refused")
        }  # fmt: skip
        assert kept.counted("dead_letters_lost") == 1


async def test_records_are_bounded(settings: KafkaJournalSettings) -> None:
    """Each process has them in memory. The oldest are deleted, and counted."""
    async with opened(settings, max_records=32) as kept:
        await kept.add(*(dead_letter(number) for number in range(32)))
        assert kept.counted("dead_letters_evicted") == 0
        await kept.add_post(MALFORMED)
        await kept.add(dead_letter(32))
        assert [each.event_id for each in await kept.all()] == [*(f"id-{number}" for number in range(3, 32)), None, "id-32"]
        assert kept.counted("dead_letters_evicted") == 3


async def test_what_two_processes_delete_at_once_is_counted_once(settings: KafkaJournalSettings) -> None:
    """By the one whose message was the first: the sum over all processes is what is gone. One that starts later counts
    nothing of it."""
    async with opened(settings, max_records=32) as first, opened(settings, max_records=32) as second:
        await first.add(*(dead_letter(number) for number in range(32)))
        await second.find()
        await asyncio.gather(first._evict_records(), second._evict_records())
        assert len(await first.find()) == len(await second.find()) == 30
        async with opened(settings) as later:
            assert later.counted("dead_letters_evicted") == 0
        assert first.counted("dead_letters_evicted") + second.counted("dead_letters_evicted") == 2


async def test_posts_that_the_brokers_delete_are_counted(kafka: Kafka, settings: KafkaJournalSettings) -> None:
    """But not those that an operator had deleted. What became of them is forgotten."""
    async with opened(settings) as kept:
        for number in range(4):
            await kept.add_post(replace(MALFORMED, body=b"nonsense %d" % number))
        with open_dead_letters(settings, MAX_OCCURRENCES) as command:
            ids = [each.id for each in command.select()]
            command.delete(ids[:1])
            assert command.retry(Selection(ids=ids[1:2]), {}) == 1
        assert [(each.tries, each.body) for each in await kept.all()][:1] == [(2, b"nonsense 1")]
        place = TopicPartition(kept.names.refused, 0, 3)
        admin = kafka.admin()
        admin.delete_records([place])[place].result(DEADLINE)
        await kept.tend()
        assert [each.body for each in await kept.all()] == [b"nonsense 3"]
        assert kept.metrics.dead_letters_evicted.labels("", "malformed")._value.get() == 2
        assert kept.index.outcomes(2**62) == []
        await kept.tend()
        assert kept.counted("dead_letters_evicted") == 2


async def test_a_post_is_appended_with_its_digest_in_its_partition(kafka: Kafka, settings: KafkaJournalSettings) -> None:
    """So that it meets itself if it comes again. One that is too large for the topic stays, and says so."""
    kafka.make_topic(Names(settings.prefix).posts, 3, max_message_bytes="2000")
    async with opened(settings) as kept:
        large = mixed(100)
        for body in (mixed(1), large):
            await kept.add_post(replace(MALFORMED, body=body))
        with open_dead_letters(settings, MAX_OCCURRENCES) as command:
            assert command.retry(ALL, {}) == 2
        assert dict(await bodies_of(kafka, kept.names.posts)) == {mixed(1): 1}
        (left,) = await kept.all()
        assert (left.body, left.tries) == (large, 2)
        assert "max.message.bytes" in left.reason


async def test_many_are_read_in_pieces(settings: KafkaJournalSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not more than a piece is in memory, whatever is deleted meanwhile."""
    monkeypatch.setattr(letters, "PIECE", 2_000)
    async with opened(settings) as kept:
        await kept.add(*(dead_letter(number) for number in range(100)))
        with open_dead_letters(settings, MAX_OCCURRENCES) as command:
            selected = command.select()
            first = next(selected)
            command.delete([each.id for each in command.newest(3)])
            await kept.add(dead_letter(100))
            found = [first, *selected]
            assert [each.event_id for each in found] == [f"id-{number}" for number in range(97)]
            assert 1 < len(command.newest(50)) < 50


async def test_posts_and_records_are_in_one_order(settings: KafkaJournalSettings) -> None:
    """That in which they were added. JavaScript can count as far as their ids."""
    async with opened(settings) as kept:
        for number in range(3):
            await kept.add(dead_letter(number))
            await kept.add_post(replace(MALFORMED, body=b"%d" % number))
        found = await kept.all()
        assert [each.event_id or each.body for each in found] == ["id-0", b"0", "id-1", b"1", "id-2", b"2"]
        ids = [each.id for each in found]
        assert ids == sorted(set(ids))
        assert ids[-1] < 2**53
        assert letter_messages.first_id(3_755_289_600_000) < 2**53  # 2089


async def test_a_topic_that_is_missing_is_named(kafka: Kafka, settings: KafkaJournalSettings) -> None:
    """And not made: the prefix may be wrong."""
    with (
        pytest.raises(JournalUnavailable, match=rf"no topic {settings.prefix}\.dead-letters: .*prefix"),
        open_dead_letters(settings, MAX_OCCURRENCES),
    ):
        pass
    assert not [topic for topic in kafka.admin().list_topics(timeout=DEADLINE).topics if settings.prefix in topic]


async def test_brokers_that_are_away_are_told(kafka: Kafka) -> None:
    """At the start with the address that was tried, later within `request_timeout`. It works again when they are back."""
    with (
        pytest.raises(JournalUnavailable, match=r"127\.0\.0\.1:1: can't connect"),
        open_dead_letters(settings_for("127.0.0.1:1"), MAX_OCCURRENCES),
    ):
        pass
    async with opened(settings_for(kafka.bootstrap, request_timeout="0.5s")) as kept:
        kafka.nodes[0].pause()
        try:
            for question in (kept.kept, kept.paused, lambda: kept.add(dead_letter(1))):
                with suppress(JournalUnavailable):
                    await question()  # it may share an answer that was on its way
                with pytest.raises(JournalUnavailable):
                    await question()
        finally:
            kafka.nodes[0].resume()
        assert [each.event_id for each in await kept.all()] in ([], ["id-1"])
        await kept.add(dead_letter(1))
        assert [each.event_id for each in await kept.all()] == ["id-1"]


async def test_consumers_that_end_are_replaced(settings: KafkaJournalSettings) -> None:
    """aiokafka's tasks end for good on errors that it does not expect, and say nothing."""
    async with opened(settings) as kept:
        await kept.add(dead_letter(1))
        for consumer in (kept._tail._tail, kept._tail._reader):
            consumer._fetcher._fetch_task.cancel()
        await kept.add(dead_letter(2))
        assert [each.event_id for each in await kept.all()] == ["id-1", "id-2"]


async def test_what_a_transaction_has_written_counts_when_it_is_committed(
    kafka: Kafka, settings: KafkaJournalSettings
) -> None:
    """And never if it is aborted."""
    async with opened(settings) as kept:
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": settings.prefix})
        producer.init_transactions(DEADLINE)
        for end, expected in ((producer.abort_transaction, []), (producer.commit_transaction, ["id-2", "id-3"])):
            producer.begin_transaction()
            letters = [dead_letter(1)] if not expected else [dead_letter(2), dead_letter(3)]
            messages = await kept.messages("a", 0, Commit(START, None, letters))
            for each in messages:
                producer.produce(each.topic, each.value, each.key, timestamp=each.timestamp)
            assert producer.flush(DEADLINE) == 0
            assert await kept.all() == []
            end(DEADLINE)
            async with asyncio.timeout(DEADLINE):
                while True:
                    if len(found := await kept.all()) >= len(expected):  # brokers show it a little later
                        break
                    await asyncio.sleep(0.01)
            assert [each.event_id for each in found] == expected


async def test_outlets_are_not_given_again_what_was_delivered(kafka: Kafka, settings: KafkaJournalSettings) -> None:
    """Although brokers do not show yet that it is gone, as they do a little after the end of each transaction."""
    async with opened(settings) as kept:
        one, two = await kept.add(dead_letter(1), replace(dead_letter(2), destination="topic", cause="waiting"))
        with open_dead_letters(settings, MAX_OCCURRENCES) as command:
            assert command.retry(ALL, wanting("a")) == 2
        with open_transaction(kafka.bootstrap, kept.names.dead_letters):
            await kept.apply("a", 0, Commit(START, redelivered=[one, two]))
            asking = asyncio.gather(kept.retries("a", 9), kept.waiting("a", 0, "topic", 9), kept.destinations("a", 0))
            await settle()
            assert await kept.find() == [one, two]  # a reply behind those to the others
            assert not asking.done()
        assert tuple(await asyncio.wait_for(asking, DEADLINE)) == ([], [], {})


async def test_letters_are_settled_when_open_transactions_have_ended(kafka: Kafka, settings: KafkaJournalSettings) -> None:
    """A process that takes a partition over sees then what became of its letters, although it was behind others."""
    async with opened(settings) as kept:
        (one,) = await kept.add(dead_letter(1))
        with open_transaction(kafka.bootstrap, kept.names.dead_letters):
            produce(kafka.bootstrap, kept.names.dead_letters, (letter_key("a", "id-1"), None))
            settling = asyncio.create_task(kept.settled())
            await settle()
            assert await kept.find() == [one]  # a reply behind the other one
            assert not settling.done()
        await asyncio.wait_for(settling, DEADLINE)
        assert await kept.find() == []


async def test_a_process_that_only_receives_opens_them_once(
    settings: KafkaJournalSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When somebody asks for the first time: to connect for each question would take long. It asks again if that failed."""
    started = 0

    async def start(*arguments: Any, **more: Any) -> Any:
        nonlocal started
        started += 1
        return await groupless_start(*arguments, **more)

    groupless_start = groupless.start
    monkeypatch.setattr(groupless, "start", start)
    journal = KafkaJournal(settings, {}, Metrics(), MAX_OCCURRENCES, delivers=False)
    await journal.open()

    def ask() -> int:
        with create.dead_letters(settings, MAX_OCCURRENCES, journal) as view:
            return view.count()

    try:
        with pytest.raises(JournalUnavailable, match=r"no topic .*\.dead-letters"):
            await asyncio.to_thread(ask)
        async with opened(settings) as kept:
            await kept.add(dead_letter(1))
        started = 0
        assert [await asyncio.to_thread(ask) for _ in range(3)] == [1, 1, 1]
        assert started == 2
    finally:
        await journal.close()
    with pytest.raises(JournalUnavailable, match="closed"):
        await asyncio.to_thread(ask)


async def test_after_closing_everything_says_so(settings: KafkaJournalSettings) -> None:
    """Also the view of another thread."""
    async with opened(settings) as kept:
        pass
    with pytest.raises(JournalUnavailable, match="closed"):
        await kept.kept()
    with kept.view() as view, pytest.raises(JournalUnavailable, match="closed"):
        await asyncio.to_thread(view.count)
