"""A whole cluster to which everything happens: three brokers, two receivers behind haproxy, two deliverers to files,
Elasticsearch and topics. A client posts once and never again.

Nothing is lost; Elasticsearch, the files of both machines together and the topic of a sink with `exactly_once` have nothing
twice; the topic of a sink without it has at most what was under way. Every post is answered 200, in time.

A failing run prints its seed; BTFEED_CLUSTER_SEED repeats it.
"""

import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.servers import elasticsearch
from tests.servers.kafka import Kafka
from tests.system.cluster import faults, judges
from tests.system.cluster.faults import BETWEEN, Fault
from tests.system.cluster.machines import BROKERS, TIMEOUT, UNDER_WAY, Cluster
from tests.system.cluster.posting import Posting

pytestmark = [pytest.mark.kafka, pytest.mark.elasticsearch, pytest.mark.haproxy]

RATE, OCCURRENCES = 20, 8


@contextmanager
def running(directory: Path, seed: int) -> Iterator[tuple[Cluster, Posting]]:
    """A cluster that gets posts."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor())
        node = pool.submit(elasticsearch.shared)  # both take long to start
        kafka = stack.enter_context(Kafka(directory / "kafka", brokers=3, settings=BROKERS))
        cluster = stack.enter_context(Cluster(directory, kafka, node.result()))
        port = cluster.balancer.port
        yield cluster, stack.enter_context(Posting(directory / "posting", port, seed, RATE, OCCURRENCES))


def suffer(cluster: Cluster, posting: Posting, happening: Sequence[tuple[str, Fault]]) -> int:
    """Let it all happen. Returns how often a deliverer may have written again what it had under way."""
    for name, fault in happening:
        began = time.monotonic()
        posting.more(BETWEEN)
        fault.happen(cluster, posting)
        sys.stdout.write(f"{name}: {time.monotonic() - began:.1f} s\n")
    posting.stop()
    posting.tell()
    cluster.caught_up()
    cluster.stop()
    return sum(fault.repeats for _, fault in happening)


def verify(cluster: Cluster, posting: Posting, repeats: int) -> None:
    """The promises of docs/reliability.md."""
    client = posting.client
    unanswered = [post.body for post in client.failures]
    verdicts = {
        name: judges.judge(found, client.answered, unanswered, OCCURRENCES) for name, found in cluster.found().items()
    }
    told = "\n".join(f"{name}: {verdict}" for name, verdict in verdicts.items())
    sys.stdout.write(told + "\n")
    assert client.failures == []
    assert posting.late(TIMEOUT) == []
    assert not any(verdict.lost or verdict.strange for verdict in verdicts.values()), told
    assert not any(verdicts[name].doubled for name in ("files", "search", "once")), told
    assert verdicts["plain"].doubled <= repeats * UNDER_WAY, told


def test_everything_happens_once(tmp_path: Path) -> None:
    """One fault of each kind."""
    happening = [
        ("a deliverer is paused beyond its session", faults.deliverer_paused(0, meanwhile=faults.receiver_killed(0))),
        ("a broker and a deliverer are killed", faults.broker_killed(1, meanwhile=faults.deliverer_killed(1))),
        ("all deliverers are killed in a transaction", faults.deliverers_killed()),
        ("all brokers are silent", faults.brokers_silent(8)),
        ("a rolling restart", faults.rolled()),
    ]
    with running(tmp_path, seed=1) as (cluster, posting):
        repeats = suffer(cluster, posting, happening)
        verify(cluster, posting, repeats)
        assert cluster.aborted() > 0, "no records of a transaction were taken back"


@pytest.mark.chaos
def test_everything_happens_in_any_order(tmp_path: Path) -> None:
    """To each process and each broker, in an order that a seed gives."""
    seed = int(os.environ.get("BTFEED_CLUSTER_SEED") or time.time_ns() % 100_000)  # posts of larger ones have no year
    sys.stdout.write(f"seed {seed}\n")
    happening: list[tuple[str, Fault]] = []
    for which in (0, 1):
        happening += [
            (f"receiver {which} is killed", faults.receiver_killed(which)),
            (f"deliverer {which} is killed", faults.deliverer_killed(which)),
            (f"deliverer {which} is paused beyond its session", faults.deliverer_paused(which)),
            (f"deliverer {which} has a twin", faults.instance_twice(which)),
        ]
    happening += [(f"broker {which} is killed", faults.broker_killed(which)) for which in range(3)]
    happening += [
        ("all deliverers are killed in a transaction", faults.deliverers_killed()),
        ("all brokers are killed", faults.brokers_killed(30)),
        ("all brokers are silent", faults.brokers_silent(30)),
        ("a rolling restart", faults.rolled()),
    ]
    random.Random(seed).shuffle(happening)
    with running(tmp_path, seed) as (cluster, posting):
        repeats = suffer(cluster, posting, happening)
        verify(cluster, posting, repeats)
        assert cluster.aborted() > 0, "no records of a transaction were taken back"
