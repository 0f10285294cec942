"""The posts of a range of time, with brokers that give some of them as from a damaged disk."""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from btfeed.journal.base import Damaged, Entry, JournalUnavailable
from btfeed.journal.kafka.archive import KafkaArchive
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.posts.post import Post
from tests.journal.kafka.damage import Damage, Where, batches, damage, write_batches
from tests.journal.kafka.intakes import settings_for
from tests.servers.kafka import Kafka, shared
from tests.support.harness import until

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Three brokers, each of which has all posts."""
    with Kafka(tmp_path_factory.mktemp("cluster") / "kafka", brokers=3) as running:
        yield running


def at(*times: int) -> list[Post]:
    """Posts that were received at these times."""
    return [Post(b"post %d" % time, time, "10.0.0.1") for time in times]


def journal(kafka: Kafka, *partitions: Sequence[Sequence[Post]]) -> KafkaJournalSettings:
    """A journal with these batches in each of its partitions."""
    settings = settings_for(kafka.bootstrap)
    topic = f"{settings.prefix}.posts"
    kafka.make_topic(topic, len(partitions), kafka.brokers, retention_ms="-1")
    for number, each in enumerate(partitions):
        write_batches(kafka.bootstrap, topic, number, *each)
    return settings


def shown(entry: Entry | Damaged) -> tuple[int, int, bytes | None]:
    """Offset, time and body; no body if it can't be read."""
    if isinstance(entry, Damaged):
        assert entry.body == b""
        return entry.seq, entry.received, None
    return entry.seq, entry.post.received, entry.post.body


@pytest.mark.parametrize("where", ["records", "attributes"])
def test_a_damaged_batch_is_passed_over(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its posts is told, with the time of the one before it or that of the range's begin. All others come."""
    settings = journal(shared(), [at(10), at(20), at(30, 40, 50), at(60), at(70)])
    damage(monkeypatch, where).offsets = {0, 2, 6}
    everything = [(0, 0, None), (1, 20, b"post 20"), (2, 20, None), (3, 20, None), (4, 20, None), (5, 60, b"post 60")]
    archive = KafkaArchive(settings)
    assert [shown(entry) for entry in archive.entries()] == [*everything, (6, 60, None)]
    assert archive.count == 7
    since = KafkaArchive(settings, 30, 70)
    assert [shown(entry) for entry in since.entries()] == [
        (2, 30, None), (3, 30, None), (4, 30, None), (5, 60, b"post 60"), (6, 60, None)
    ]  # fmt: skip


def test_partitions_with_damage_are_merged_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A post that can't be read comes right behind the one before it, and names its partition."""
    settings = journal(shared(), [at(10), at(20), at(50)], [at(15, 30, 40)])
    damage(monkeypatch).offsets = {1}
    entries = list(KafkaArchive(settings).entries())
    assert [shown(entry)[1:] for entry in entries] == [
        (10, b"post 10"), (10, None), (15, b"post 15"), (30, b"post 30"), (40, b"post 40"), (50, b"post 50")
    ]  # fmt: skip
    assert entries[1] == Damaged(1, 10, b"", 0)


def test_posts_before_the_damage_are_not_lost_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come in one answer. Those behind it come once."""
    settings = journal(shared(), [at(*range(1, 601)), at(601), at(*range(602, 700))])
    damage(monkeypatch).offsets = {600}
    found = [shown(entry) for entry in KafkaArchive(settings).entries()]
    assert [offset for offset, _, _ in found] == list(range(699))
    assert [offset for offset, _, body in found if body is None] == [600]


def test_a_damaged_batch_in_which_a_broker_looks_for_a_time(tmp_path: Path) -> None:
    """It answers with an error then. What was received from the time on comes all the same, and nothing from before."""
    with Kafka(tmp_path / "kafka") as kafka:
        inside, at_first = journal(kafka, [at(10), at(20), at(30, 40, 50), at(60)]), journal(kafka, [at(10, 20), at(30)])
        (broker,) = kafka.nodes
        broker.kill(signal.SIGTERM)
        for settings, offset in ((inside, 2), (at_first, 0)):
            (file,) = (broker.directory / "data").glob(f"{settings.prefix}.posts-0/*.log")
            content = bytearray(file.read_bytes())
            start = next(each for each in batches(content) if int.from_bytes(content[each : each + 8]) == offset)
            content[start + 61 : start + 71] = b"\xff" * 10
            file.write_bytes(content)
        broker.start()
        broker.wait()
        until(lambda: kafka.partitions(f"{at_first.prefix}.posts")[0].leader == 1, "a leader")
        rest = [(2, 35, None), (3, 35, None), (4, 35, None), (5, 60, b"post 60")]
        assert [shown(entry) for entry in KafkaArchive(inside, 35).entries()] == rest
        begin = [(0, 10, b"post 10"), (1, 20, b"post 20"), (2, 20, None), (3, 20, None), (4, 20, None)]
        assert [shown(entry) for entry in KafkaArchive(inside, 0, 45).entries()] == begin
        assert [shown(entry) for entry in KafkaArchive(at_first, 15).entries()] == [
            (0, 15, None), (1, 15, None), (2, 30, b"post 30")
        ]  # fmt: skip


@pytest.fixture
def replicated(cluster: Kafka, monkeypatch: pytest.MonkeyPatch) -> tuple[KafkaJournalSettings, Damage]:
    """Posts that three brokers have, one in each batch. The second one is damaged."""
    settings = journal(cluster, [at(10), at(20), at(30)])
    damaged = damage(monkeypatch)
    damaged.offsets = {1}
    return settings, damaged


@pytest.mark.parametrize("sound", [1, 2, 3])
def test_what_one_replica_can_not_give_another_one_does(
    sound: int, replicated: tuple[KafkaJournalSettings, Damage]
) -> None:
    """Whichever it is."""
    settings, damaged = replicated
    damaged.brokers = {1, 2, 3} - {sound}
    assert [shown(entry) for entry in KafkaArchive(settings).entries()] == [
        (0, 10, b"post 10"), (1, 20, b"post 20"), (2, 30, b"post 30")
    ]  # fmt: skip


def test_each_replica_is_asked_once(replicated: tuple[KafkaJournalSettings, Damage]) -> None:
    """Before the post is given up."""
    settings, damaged = replicated
    assert [shown(entry)[2] for entry in KafkaArchive(settings).entries()] == [b"post 10", None, b"post 30"]
    assert sorted(damaged.asked[-3:]) == [1, 2, 3]
    assert set(damaged.asked[:-3]) == {damaged.asked[-3]}  # to find where it is


def test_a_replica_that_is_away_is_no_reason_to_give_a_post_up(replicated: tuple[KafkaJournalSettings, Damage]) -> None:
    """The others are asked. If they can't give the post either, that is an error, since the one that is away might."""
    settings, damaged = replicated
    archive = KafkaArchive(settings)
    list(archive.entries())
    first, second, third = damaged.asked[-3:]
    damaged.away = {second}
    with pytest.raises(JournalUnavailable, match=f"partition 0 is damaged at offset 1, and broker {second}, which has a"):
        list(archive.entries())
    damaged.brokers = {first}
    assert shown(list(archive.entries())[1]) == (1, 20, b"post 20")
    assert damaged.asked[-1] == third
