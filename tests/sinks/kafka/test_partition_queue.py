"""What is left to send to a partition after refusals, and what is learned from them about a topic's limit."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from sinks.base import BatchRefused
from sinks.kafka.limits import PATIENCE, BatchLimits
from sinks.kafka.messages import Messages
from sinks.kafka.partition_queue import PartitionQueue
from sinks.kafka.producer import Producer, RecordsRefused, TooLarge


class Echo:
    """Messages whose batches are their indexes."""

    def next_batch(self, indexes: Sequence[int], empty: object) -> list[int]:
        return list(indexes)


class Nothing:
    """A producer that makes no batches."""

    def empty_batch(self) -> None: ...


Broker = Callable[[list[int]], BatchRefused | None]
"""Why it refuses a batch, None if it takes it."""


def send(queue: PartitionQueue, broker: Broker) -> tuple[list[int], dict[int, str], int]:
    """Send everything: the records that were taken, in order, those that were refused, and the number of requests."""
    taken: list[int] = []
    refused: dict[int, str] = {}
    requests = 0
    while queue.pending:
        batch: list[int] = cast("Any", queue).next_batch(cast("Messages", Echo()), cast("Producer", Nothing()))
        requests += 1
        error = broker(batch)
        if error:
            refused |= queue.refused(len(batch), error)
        else:
            taken += batch
            queue.delivered(len(batch))
    return taken, refused, requests


def at_most(records: int) -> Broker:
    return lambda batch: TooLarge("big") if len(batch) > records else None


@pytest.mark.parametrize("culprits", [[0], [7, 8], [499], [0, 250, 499], []])
def test_halving_finds_the_records_that_are_too_large(culprits: list[int]) -> None:
    """All others are taken, in order, and nothing is learned about the topic."""
    queue = PartitionQueue("t", 0, range(500))
    taken, refused, _ = send(queue, lambda batch: TooLarge("big") if set(culprits) & set(batch) else None)
    assert taken == [record for record in range(500) if record not in culprits]
    assert refused == dict.fromkeys(culprits, "big")
    assert queue.limits.most("t", 500) == 500


def test_named_records_cost_one_request_more() -> None:
    """However many they are. The rest is taken at once, in order."""

    def broker(batch: list[int]) -> BatchRefused | None:
        old = {place: f"old {record}" for place, record in enumerate(batch) if record % 3 == 0}
        return RecordsRefused("old", old) if old else None

    taken, refused, requests = send(PartitionQueue("t", 0, range(500)), broker)
    assert taken == [record for record in range(500) if record % 3]
    assert refused == {record: f"old {record}" for record in range(0, 500, 3)}
    assert requests == 2


def test_named_records_within_a_batch_that_is_halved() -> None:
    """Both kinds of refusal at once."""

    def broker(batch: list[int]) -> BatchRefused | None:
        if len(batch) > 100:
            return TooLarge("big")
        old = {place: "old" for place, record in enumerate(batch) if record % 50 == 0}
        return RecordsRefused("old", old) if old else None

    taken, refused, _ = send(PartitionQueue("t", 0, range(500)), broker)
    assert taken == [record for record in range(500) if record % 50]
    assert [*refused] == list(range(0, 500, 50))


def test_a_topic_s_limit_is_learned_by_topic() -> None:
    """And told of once. Later writes begin with what fitted."""
    limits = BatchLimits("kafka")
    with capture_logs() as logs:
        for write in range(5):
            taken, refused, requests = send(PartitionQueue("t", write % 2, range(1000), limits), at_most(300))
            assert (taken, refused) == (list(range(1000)), {})
            if write:
                assert requests == 4
    assert limits.most("t", 1000) == 250
    assert limits.most("other", 1000) == 1000
    assert limits.halved == 1000 + 500 + 500
    assert [(line["log_level"], line["topic"], line["records"]) for line in logs] == [("warning", "t", 250)]


def test_a_limit_is_tried_out_rarely() -> None:
    """So a limit that was raised is found, and one that was not costs few requests."""
    limits = BatchLimits()
    send(PartitionQueue("t", 0, range(1000), limits), at_most(300))
    sent = [send(PartitionQueue("t", 0, range(1000), limits), at_most(300))[2] for _ in range(10 * PATIENCE)]
    assert sum(sent) <= 1.1 * 4 * len(sent)
    assert 250 <= limits.most("t", 1000) <= 330
    for _ in range(20 * PATIENCE):
        send(PartitionQueue("t", 0, range(1000), limits), at_most(10_000))
    assert limits.most("t", 1000) == 1000


def test_records_that_grow_lower_the_limit() -> None:
    """What fitted before does not count any more."""
    limits = BatchLimits()
    for _ in range(3):
        send(PartitionQueue("t", 0, range(1000), limits), at_most(300))
    send(PartitionQueue("t", 0, range(1000), limits), at_most(90))
    assert limits.most("t", 1000) <= 90
