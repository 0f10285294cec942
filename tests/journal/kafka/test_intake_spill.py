"""When posts go to the spill, and when to Kafka again: with a real broker, and with none."""

import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed.commands.status import _spill_line
from btfeed.journal.base import DeadLetter, JournalFull, JournalUnavailable
from btfeed.journal.kafka.spill import CONSUMER
from btfeed.posts.post import digest
from btfeed.telemetry.samples import total
from btfeed.telemetry.wording import size
from tests.journal.journals import journal, post
from tests.journal.kafka.intakes import bodies_of, messages_of, opened, settings_for
from tests.servers.kafka import Kafka, shared
from tests.sinks.drivers.kafka import headers
from tests.support.harness import until_async
from tests.support.ports import free_port

NOWHERE = f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def kafka() -> Kafka:
    return shared()


async def test_while_kafka_is_away_posts_are_durable_at_once(tmp_path: Path) -> None:
    """They don't wait for the timeout. The intake refuses nothing, and its metrics say what is the matter."""
    settings = settings_for(NOWHERE, spill={"directory": str(tmp_path)})
    async with opened(settings) as intake:
        assert await intake.append_all([post(1), post(2)]) == [digest(post(number).body) for number in (1, 2)]
        assert (intake.refusing, intake.count("up")) == (None, 0)
        assert "can't connect" in (intake.away or "")
        assert (intake.count("spilled_posts"), intake.count("spill_posts")) == (2, 2)
        await intake.answer()
    async with opened(settings) as intake:
        assert intake.count("spill_posts") == 2


async def test_a_full_spill_refuses_with_both_reasons(tmp_path: Path) -> None:
    """A person has to know why Kafka takes nothing, and how much room there was."""
    async with opened(settings_for(NOWHERE, spill={"directory": str(tmp_path), "max_size": "1MiB"})) as intake:
        with pytest.raises(JournalFull, match=r"spill is full \(journal.spill.max_size\), and Kafka takes no posts since"):
            await intake.append_all([post(number, 50_000) for number in range(40)])
        assert "the spill refuses posts: the journal is full" in (intake.refusing or "")


async def test_status_counts_all_that_waits_on_the_machine(tmp_path: Path) -> None:
    """In every directory, rejected posts included: the same number in the metric, in status and in the log."""
    async with journal(tmp_path / "worker-2", (CONSUMER,)) as left:
        await left.append(post(1))
    letter = DeadLetter("post", "", "malformed: not a post", 1_700_000_000_000, b"what is this?", cause="malformed")
    async with opened(settings_for(NOWHERE, spill={"directory": str(tmp_path)})) as intake:
        await until_async(lambda: intake.count("spill_posts") == 1, "the other directory is open")
        await intake.add_dead_letter(letter)
        counts = intake.metrics.summary()
        assert counts["spill_posts"] == intake.count("spill_posts") == 2
        assert counts["spill_bytes"] == intake.count("spill_bytes") > total(intake.metrics.journal_bytes)
        shown = _spill_line(counts)
        assert shown.startswith(
            f"spill: 2 posts, {size(intake.count('spill_bytes'))} with those of former workers; its own: "
        )
        with capture_logs() as logs:
            intake._kafka_works()
        assert [line["posts_in_the_spill"] for line in logs if line["event"] == "Kafka takes posts again"] == [2]


@pytest.mark.kafka
async def test_posts_of_an_earlier_run_are_forwarded(kafka: Kafka, tmp_path: Path) -> None:
    """As soon as Kafka is there."""
    async with journal(tmp_path, (CONSUMER,)) as spill:
        await spill.append(post(1))
    async with opened(settings_for(kafka.bootstrap, spill={"directory": str(tmp_path)})) as intake:
        await until_async(lambda: not intake.count("spill_posts"), "an empty spill")
        assert intake.count("forwarded_posts") == 1
        assert await bodies_of(kafka, intake.names.posts) == {post(1).body: 1}


@pytest.mark.kafka
async def test_rejected_posts_are_kept_while_kafka_is_away(kafka: Kafka, tmp_path: Path) -> None:
    """They come to the topic of these with what was said of them. Without a spill the caller has to know."""
    letter = DeadLetter("post", "", "malformed: not a post", 1_700_000_000_000, b"what is this?", cause="malformed")
    async with opened(settings_for(NOWHERE, spill={"directory": str(tmp_path)})) as intake:
        await intake.add_dead_letter(letter)
        assert (intake.count("spilled_posts"), intake.count("spill_posts")) == (1, 1)
    async with opened(settings_for(NOWHERE)) as intake:
        with pytest.raises(JournalUnavailable, match="Kafka takes no posts since"):
            await intake.add_dead_letter(letter)
    async with opened(settings_for(kafka.bootstrap, spill={"directory": str(tmp_path)})) as intake:
        await until_async(lambda: not intake.count("spill_posts"), "an empty spill")
        assert intake.count("forwarded_posts") == 1
        (message,) = await messages_of(kafka, intake.names.refused)
        said = headers(message)
        assert (message.value(), said["reason"], said["time"]) == (letter.body, b"malformed: not a post", b"1700000000000")


@pytest.mark.kafka
async def test_a_broken_spill_is_passed_by_if_kafka_works(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it took is not lost, and what it does not take goes to Kafka directly."""
    async with opened(settings_for(kafka.bootstrap, spill={"directory": str(tmp_path)})) as intake:
        assert intake._spill
        intake._kafka_failed("tests say so")

        async def broken(*arguments: object) -> None:
            raise JournalUnavailable("disk")

        monkeypatch.setattr(intake._spill, "append", broken)
        await intake.append(post(1))
        assert intake.away is None
        assert (await bodies_of(kafka, intake.names.posts)) == {post(1).body: 1}
        intake._sending.down = "not there"
        for number in (2, 3):
            with pytest.raises(JournalUnavailable, match=r"disk; Kafka takes no posts since .*: not there"):
                await intake.append(post(number))
        intake._sending.down = None
        await until_async(lambda: intake.away is None, "the brokers say that they take posts")


@pytest.mark.kafka
async def test_a_post_of_a_time_to_come_holds_up_no_other(kafka: Kafka, tmp_path: Path) -> None:
    """A broker takes it later, and others now: they do not go to the spill because of it, nor wait behind it."""
    ahead = round(time.time() * 1000) + 2 * 3_600_000
    async with journal(tmp_path, (CONSUMER,)) as spill:
        for each in (post(0, received=ahead), post(1)):
            await spill.append(each)
    async with opened(settings_for(kafka.bootstrap, spill={"directory": str(tmp_path)})) as intake:
        await until_async(lambda: intake.count("forwarded_posts") == 1, "the other one")
        await intake.append_all([post(2), post(3, received=ahead), post(4)])
        assert (intake.away, intake.count("spilled_posts")) == (None, 1)
        await until_async(lambda: intake.count("spill_posts") == 2, "those of a time to come")
        assert await bodies_of(kafka, intake.names.posts) == {post(number).body: 1 for number in (1, 2, 4)}


@pytest.mark.kafka
async def test_a_refused_time_is_a_reason_to_look_at_the_clock(kafka: Kafka) -> None:
    """Without a spill the post is lost, and the sender is told why."""
    ahead = round(time.time() * 1000) + 2 * 3_600_000
    async with opened(settings_for(kafka.bootstrap)) as intake:
        with pytest.raises(JournalUnavailable, match=r"Timestamp .* is out of range.* is the clock of this machine right"):
            await intake.append(post(1, received=ahead))
