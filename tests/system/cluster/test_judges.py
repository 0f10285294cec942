"""The judges of a cluster say nothing against a server that works, and find each fault of one that does not."""

import json
import sys
import uuid
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Producer

from btfeed.posts.post import digest, event_id_prefix
from tests.servers.kafka import shared
from tests.support.harness import BTFEED, DEADLINE, Server, until
from tests.support.posts import mixed
from tests.system.cluster.judges import Verdict, in_files, in_topic, judge
from tests.system.cluster.posting import Posting

POSTS, OCCURRENCES = 60, 2
FAULTY = [sys.executable, "-m", "tests.support.faulty"]


def posted_and_judged(directory: Path, program: list[str]) -> tuple[Verdict, Posting]:
    """What a server with a file sink makes of some posts."""
    sinks = f'[sinks.files]\ntype = "file"\ndirectory = "{directory}/files"\ndelivery = {{ linger = "20ms" }}\n'
    with Server(directory, sinks, program=program) as server:
        with Posting(directory, server.port, seed=1, rate=100, occurrences=OCCURRENCES) as posting:
            posting.more(POSTS)
        until(lambda: server.status()["sinks"]["files"]["backlog_posts"] == 0, "delivered")
        assert server.stop() == 0
    assert posting.client.failures == []
    return judge(in_files([directory / "files"]), posting.client.answered, [], OCCURRENCES), posting


@pytest.mark.slow
def test_nothing_is_said_against_a_server_that_works(tmp_path: Path) -> None:
    """Every record is there once, and no answer was late. By a clock that allows less than nothing, every answer was."""
    verdict, posting = posted_and_judged(tmp_path, BTFEED)
    assert (verdict.lost, verdict.doubled, verdict.strange) == (frozenset(), 0, frozenset())
    assert verdict.records == len(posting.client.sent) * OCCURRENCES >= POSTS * OCCURRENCES
    assert posting.late(timeout=2.0) == []
    assert len(posting.late(timeout=-60.0)) == len(posting.client.sent)


@pytest.mark.slow
def test_a_delivery_that_loses_and_doubles_is_found_out(tmp_path: Path) -> None:
    """The server says that it has delivered everything. What one batch lacked and another had twice is named."""
    verdict, _ = posted_and_judged(tmp_path, FAULTY)
    assert len(verdict.lost) > 0
    assert verdict.doubled > 0
    assert "lost [" in str(verdict)


def test_each_fault_is_named() -> None:
    """A record that nobody posted, one that is missing, and one that is there three times; a post without an answer may
    be there or not."""
    first, second, third = (mixed(2, seed) for seed in range(3))
    one, two, three = (event_id_prefix(digest(body)) for body in (first, second, third))
    found = Counter({f"{one}0": 1, f"{one}1": 3, f"{two}0": 1, f"{three}1": 1, "somebody's-0": 1})
    verdict = judge(found, answered=[first, second], unanswered=[third], occurrences=2)
    assert verdict == Verdict(4, frozenset({f"{two}1"}), Counter({f"{one}1": 3}), frozenset({"somebody's-0"}))
    assert verdict.doubled == 2


def test_a_torn_record_is_no_record(tmp_path: Path) -> None:
    """A file that ends in the middle of a record is not passed over."""
    (tmp_path / "a.ndjson").write_bytes(b'{"event.id":"1"}\n{"event.i')
    with pytest.raises(ValueError, match="Unterminated"):
        in_files([tmp_path])


@pytest.mark.kafka
def test_a_topic_is_read_as_its_consumers_see_it() -> None:
    """To the end of each partition, with or without what transactions took back. A missing topic has nothing."""
    topic = shared().make_topic(f"t-{uuid.uuid4().hex}", 2)
    producer = Producer({"bootstrap.servers": shared().bootstrap, "transactional.id": topic})
    producer.init_transactions(DEADLINE)
    for ids, end in (("ab", producer.commit_transaction), ("ac", producer.abort_transaction)):
        producer.begin_transaction()
        for number, event_id in enumerate(ids):
            producer.produce(topic, json.dumps({"event.id": event_id}), partition=number)
        producer.flush(DEADLINE)
        end(DEADLINE)
    assert in_topic(shared(), topic) == Counter("ab")
    assert in_topic(shared(), topic, "read_uncommitted") == Counter("abac")
    assert in_topic(shared(), f"{topic}-missing") == Counter()
