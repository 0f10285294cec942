"""What can happen to a cluster. Each fault returns when it has happened, was seen to have hit something, and is over.

They take turns while posts come in. What they did to the records is judged in the end.

A deliverer may write again what it had under way when it ends, when its partitions go to others, and when brokers do not
say what became of a write. Each fault says how often that may be, of all deliverers together.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from btfeed.journal.kafka.health import LOSSES
from tests.support.halves import Half, total
from tests.support.harness import until
from tests.system.cluster.machines import PATIENCE, Cluster
from tests.system.cluster.posting import Posting


@dataclass(frozen=True)
class Fault:
    """happen: returns when it is over. repeats: how often a deliverer may write again what it had under way."""

    happen: Callable[[Cluster, Posting], None]
    repeats: int = 0


NOTHING = Fault(lambda cluster, posting: None)
DELIVERERS = 2
UNKNOWN = 2 * DELIVERERS
"""Repeats while brokers are away: each has writes without an answer, and may lose its membership."""
BETWEEN = 15
"""Posts from one fault to the next, and while something is away."""


def receiver_killed(which: int) -> Fault:
    """kill -9 of a receiver that has posts which it has not answered. The balancer gives them to the other one."""

    def happen(cluster: Cluster, posting: Posting) -> None:
        half, before = cluster.receivers[which], cluster.balancer.asked_again()
        half.note()
        half.pause()
        posting.waiting(1)
        half.kill()
        until(lambda: cluster.balancer.asked_again() > before, "a post was given to the other receiver", PATIENCE, 0.1)
        half.start()

    return Fault(happen)


def deliverer_killed(which: int) -> Fault:
    """kill -9 of a deliverer while it delivers. Started again, it has its partitions."""

    def happen(cluster: Cluster, posting: Posting) -> None:
        half = cluster.deliverers[which]
        _delivering(half)
        half.note()
        half.kill()
        posting.more(BETWEEN)
        half.start()
        cluster.shared_out()

    return Fault(happen, 1)


def deliverers_killed() -> Fault:
    """kill -9 of all deliverers at once, when one of them has written records in a transaction that it has not ended."""

    def happen(cluster: Cluster, posting: Posting) -> None:
        for half in cluster.deliverers:
            half.note()
        until(lambda: _stopped_in_transaction(cluster), "a transaction is under way", PATIENCE)
        for half in cluster.deliverers:
            half.kill()
        posting.more(BETWEEN)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Half.start, cluster.deliverers))
        cluster.shared_out()

    return Fault(happen, DELIVERERS)


def _stopped_in_transaction(cluster: Cluster) -> bool:
    """Pause all deliverers if a transaction is under way. They go on, and it is False, if it has ended before."""
    if not cluster.in_transaction():
        return False
    for half in cluster.deliverers:
        half.pause()
    time.sleep(0.5)  # what they have sent to end it arrives
    if cluster.in_transaction():
        return True
    for half in cluster.deliverers:
        half.resume()
    return False


def broker_killed(which: int, meanwhile: Fault = NOTHING) -> Fault:
    """kill -9 of a broker, until a post had to be spilled. It is started again, and has what the others have.

    meanwhile: happens while it starts
    """

    def happen(cluster: Cluster, posting: Posting) -> None:
        broker, before = cluster.kafka.nodes[which], _spilled(cluster)
        broker.kill()
        until(lambda: _spilled(cluster) > before, "a post was spilled", PATIENCE, 0.2)
        posting.more(BETWEEN)
        broker.start()
        meanwhile.happen(cluster, posting)
        broker.wait()
        cluster.in_sync()

    return Fault(happen, UNKNOWN + meanwhile.repeats)


def brokers_silent(seconds: float) -> Fault:
    """All brokers are stopped by a signal, so that connections stay and nothing is answered, and go on."""

    def happen(cluster: Cluster, posting: Posting) -> None:
        _away(cluster, posting, seconds, [broker.pause for broker in cluster.kafka.nodes])
        for broker in cluster.kafka.nodes:
            broker.resume()
        cluster.in_sync()

    return Fault(happen, UNKNOWN)


def brokers_killed(seconds: float) -> Fault:
    """kill -9 of all brokers, which are started again."""

    def happen(cluster: Cluster, posting: Posting) -> None:
        _away(cluster, posting, seconds, [broker.kill for broker in cluster.kafka.nodes])
        for broker in cluster.kafka.nodes:
            broker.start()
        for broker in cluster.kafka.nodes:
            broker.wait()
        cluster.in_sync()

    return Fault(happen, UNKNOWN)


def deliverer_paused(which: int, meanwhile: Fault = NOTHING) -> Fault:
    """A deliverer is stopped by a signal for longer than its session, and the others take over. When it goes on, nothing is
    saved of what it had under way."""

    def happen(cluster: Cluster, posting: Posting) -> None:
        half = cluster.deliverers[which]
        _delivering(half)
        before = _lost_partitions(half)
        half.pause()
        meanwhile.happen(cluster, posting)
        others = [other for other in cluster.deliverers if other is not half]
        until(lambda: cluster.owned(others), "the others have its partitions", PATIENCE, 0.2)
        posting.more(BETWEEN)
        half.resume()
        until(lambda: _lost_partitions(half) > before, "it was told that its partitions are gone", PATIENCE, 0.2)
        cluster.shared_out()

    return Fault(happen, 1 + meanwhile.repeats)


def instance_twice(which: int) -> Fault:
    """Another process runs with the instance of one that runs already. One of them says so, and both go on when it ends."""

    def happen(cluster: Cluster, posting: Posting) -> None:
        first = cluster.deliverers[which]
        other = cluster.machine("deliver", f"twin-{time.time_ns()}", instance=first.directory.name)
        cluster.twins.append(other)
        other.start()
        try:
            until(lambda: _told(first) or _told(other), "two processes with one instance are told", PATIENCE, 0.2)
        finally:
            other.note()
            other.kill()
        cluster.shared_out()

    return Fault(happen, 2 * (LOSSES + 1))  # until both know that there are two, and one is killed


def rolled() -> Fault:
    """Everything is stopped by SIGTERM and started again, one receiver and one deliverer at a time."""
    return Fault(_roll, DELIVERERS)  # one may not end a write in its grace


def _roll(cluster: Cluster, posting: Posting) -> None:
    with ThreadPoolExecutor() as pool:
        for machine in zip(cluster.receivers, cluster.deliverers, strict=True):
            list(pool.map(_restart, machine))
            posting.more(BETWEEN)
    cluster.shared_out()


def _restart(half: Half) -> None:
    half.note()
    assert half.stop() == 0, half.log()[-5_000:]
    half.start()


def _away(cluster: Cluster, posting: Posting, seconds: float, end: list[Callable[[], None]]) -> None:
    """No broker answers for so long, and posts are answered all the same, from the spill."""
    before = _spilled(cluster)
    for one in end:
        one()
    gone = time.monotonic()
    until(lambda: _spilled(cluster) > before, "a post was spilled", PATIENCE, 0.2)
    posting.more(BETWEEN)
    time.sleep(max(0.0, gone + seconds - time.monotonic()))  # that long, it is the fault


def _spilled(cluster: Cluster) -> float:
    return sum(total(half.samples(), "btfeed_spilled_posts_total") for half in cluster.receivers)


def _lost_partitions(half: Half) -> int:
    return half.log().count("partition gone, delivery ended")


def _delivering(half: Half) -> None:
    """Wait until it has delivered something just now."""
    before = total(half.samples(), "btfeed_sink_delivered_total")
    until(lambda: total(half.samples(), "btfeed_sink_delivered_total") > before, "it delivers", PATIENCE, 0.02)


def _told(half: Half) -> bool:
    return any(sink["state"] == "misconfigured" for sink in half.status()["sinks"].values())
