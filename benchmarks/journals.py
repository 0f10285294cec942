"""What the journal in Kafka costs, next to the one in SQLite: the same posts, in the same minute, by turns.

Both journals do one step of the work alone: taking posts with no sink, or delivering what was taken before. `x_sqlite` is
the CPU of Kafka's journal divided by that of SQLite's; the broker's CPU is counted for itself. There is one broker on the
same cores, without replicas: what replication adds is on the machines of the brokers.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import end_to_end, real_servers
from benchmarks.end_to_end import Lost
from benchmarks.far_ends import Lines, toml
from benchmarks.job import Job, Plan, Sample
from benchmarks.load import Load
from benchmarks.measuring import cpu_seconds
from benchmarks.results import Case
from benchmarks.workshop import Workshop
from tests.servers.installed import missing
from tests.servers.kafka import Kafka
from tests.support.halves import Half, total
from tests.support.harness import BTFEED, Server, until

GROUP = "journals"
PARTITIONS = 4
TAKEN = 40
"""Occurrences that are taken, for each that a stage works on: a round must take a second or longer."""
WRITE = 0.1
"""Seconds that a write takes at a destination that is far away."""
WRITTEN = 100
"""Records in each of these writes."""
WATCHED = 2.0
"""Seconds for which it is watched how fast deliverers are."""
SHIFT = 20.0
"""Seconds for which they may deliver meanwhile, until the partitions are shared out again."""
ARRIVED = 120.0
"""Seconds in which everything must be delivered."""
SLOW = [sys.executable, "-m", "tests.support.slow"]


def jobs(plan: Plan) -> Iterator[Job]:
    """Nothing without Kafka."""
    if missing("kafka"):
        return
    rounds = plan.rounds_of(GROUP)
    for connections in plan.connections:
        case = Case(GROUP, "take", {"occurrences": 100, "connections": connections})
        yield Job(case, rounds, _bound(_take, connections, rounds, plan))
    yield Job(Case(GROUP, "deliver to files", {"occurrences": 1_000}), rounds, _bound(_deliver, rounds, plan))
    yield Job(Case(GROUP, "exactly once", {"occurrences": 1_000}), rounds, _bound(_exactly_once, rounds, plan))
    yield Job(Case(GROUP, "second deliverer", {"write_ms": WRITE * 1e3}), rounds, _bound(_second, rounds, plan))


def _bound(run: Callable[..., Iterator[Sample]], *arguments: Any) -> Callable[[Workshop], Iterator[Sample]]:
    return lambda workshop: run(workshop, *arguments)


class Journal:
    """A journal in Kafka with topics of its own."""

    def __init__(self, workshop: Workshop, sinks: Mapping[str, Mapping[str, Any]]) -> None:
        self._workshop = workshop
        self.broker: Kafka = real_servers.broker(workshop)
        self.prefix = f"bench{workshop.directory().name}"
        self._table = {
            "type": "kafka",
            "bootstrap_servers": self.broker.bootstrap,
            "prefix": self.prefix,
            "partitions": PARTITIONS,
            "replication_factor": 1,
            "min_insync_replicas": 1,
            "session_timeout": "6s",
            "spill": False,
        }
        self._sinks = sinks

    def half(self, command: str, *options: str, instance: str = "one", program: Sequence[str] = BTFEED) -> Half:
        """`btfeed receive` or `btfeed deliver`, not started yet. Each instance is another process."""
        text = "[journal]\n" + "".join(f"{line}\n" for line in _lines(self._table | {"instance": instance}))
        text += '[receiver]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n' + toml(self._sinks)
        return Half(command, self._workshop.directory(), text, options=options, program=program)

    def broker_cpu(self) -> float:
        """Seconds that the broker has used."""
        (node,) = self.broker.nodes
        assert node.process
        return cpu_seconds(node.process.pid)


def _lines(table: Mapping[str, Any]) -> Iterator[str]:
    return (line.strip() for line in toml({"x": table}).splitlines()[1:])


# Taking posts


def _take(workshop: Workshop, connections: int, rounds: int, plan: Plan) -> Iterator[Sample]:
    """A server with each journal; each gets the same number of posts in a round."""
    path = workshop.load(100, plan.load)
    posts = max(20, plan.occurrences * TAKEN // 100 // (1 if connections > 1 else 20))
    journal = Journal(workshop, {})
    with ExitStack() as stack:
        servers = {
            "sqlite": stack.enter_context(Server(workshop.directory(), "")),
            "kafka": stack.enter_context(journal.half("receive")),
        }
        senders = {
            name: stack.enter_context(end_to_end.sender(path, server.url, connections, 100))
            for name, server in servers.items()
        }
        for number in range(rounds + 1):
            spent: dict[str, float] = {}
            sample: Sample = {}
            for name in sorted(servers, reverse=bool(number % 2)):
                cpu, brokers = cpu_seconds(servers[name].pid), journal.broker_cpu()
                summary = senders[name].send(posts)
                spent[name] = (cpu_seconds(servers[name].pid) - cpu) / posts
                sample[f"{name} post_cpu_us"] = spent[name] * 1e6
                sample[f"{name} ack_p50_ms"] = summary["latency_ms"]["p50"]
                sample[f"{name} posts_per_s"] = posts / summary["seconds"]
                if name == "kafka":
                    sample["broker post_cpu_us"] = (journal.broker_cpu() - brokers) / posts * 1e6
            if number:  # the first round is a warm-up
                x_ack = sample["kafka ack_p50_ms"] / sample["sqlite ack_p50_ms"]
                yield sample | {"x_sqlite": spent["kafka"] / spent["sqlite"], "x_sqlite_ack": x_ack}


# Delivering what waits


def _filled(workshop: Workshop, server: Server, path: Path, posts: int) -> None:
    """Post to a server with this load."""
    load = Load.read(path)
    with server, end_to_end.sender(path, server.url, 8, load.per_post) as sender:
        sender.send(posts)
        server.kill()


@contextmanager
def _delivered(server: Server, records: Callable[[], int], enough: int) -> Iterator[Sample]:
    """Start a server, and wait until it has delivered. Yields what a record cost from when it listened."""
    with server:
        cpu, started = cpu_seconds(server.pid), time.perf_counter()
        until(lambda: records() >= enough, f"{enough} records delivered", ARRIVED, end_to_end.POLL)
        took, spent = time.perf_counter() - started, cpu_seconds(server.pid) - cpu
        yield {"cpu_us": spent / enough * 1e6, "occurrences_per_s": enough / took}


def _deliver(workshop: Workshop, rounds: int, plan: Plan) -> Iterator[Sample]:
    """A backlog of the same posts in each journal, delivered to files."""
    path = workshop.load(1_000, plan.load)
    posts = max(20, plan.occurrences * TAKEN // 1_000)
    for number in range(rounds):
        sample: Sample = {}
        for name in sorted(("sqlite", "kafka"), reverse=bool(number % 2)):
            for key, value in _backlog_to_files(workshop, name, path, posts).items():
                sample[f"{name} {key}"] = value
        yield sample | {"x_sqlite": sample["kafka cpu_us"] / sample["sqlite cpu_us"]}


def _backlog_to_files(workshop: Workshop, name: str, path: Path, posts: int) -> Sample:
    lines = Lines(workshop.directory())
    table = {"file": {"type": "file", "directory": str(lines.directory), "start": "oldest"}}
    if name == "sqlite":
        directory = workshop.directory()
        _filled(workshop, Server(directory, ""), path, posts)
        server = Server(directory, toml(table))
    else:
        journal = Journal(workshop, table)
        _filled(workshop, journal.half("receive"), path, posts)
        server = journal.half("deliver")
    with _delivered(server, lines.count, posts * 1_000) as sample:
        return sample


def _exactly_once(workshop: Workshop, rounds: int, plan: Plan) -> Iterator[Sample]:
    """The same backlog to one topic as ever, and to another one with `exactly_once`."""
    path = workshop.load(1_000, plan.load)
    posts = max(20, plan.occurrences * TAKEN // 1_000)
    for number in range(rounds):
        journal = _to_topics(workshop)
        _filled(workshop, journal.half("receive"), path, posts)
        rates: dict[str, float] = {}
        for name in sorted(("plain", "once"), reverse=bool(number % 2)):
            server = journal.half("deliver", "--sink", name)
            with _delivered(server, lambda name=name, server=server: _settled(server, name), posts * 1_000) as sample:  # type: ignore[misc]
                rates[name] = sample["occurrences_per_s"]
        yield {
            "occurrences_per_s": rates["once"],
            "plain occurrences_per_s": rates["plain"],
            "rate_of_plain": rates["once"] / rates["plain"],
        }


def _to_topics(workshop: Workshop) -> Journal:
    sinks: dict[str, dict[str, Any]] = {}
    journal = Journal(workshop, sinks)
    for name in ("plain", "once"):
        sinks[name] = {
            "type": "kafka",
            "cluster": "journal",
            "topic": f"{journal.prefix}.{name}",
            "create_topics": True,
            "partitions": 1,
            "start": "oldest",
            "exactly_once": name == "once",
        }
    return journal


def _settled(server: Server, sink: str) -> int:
    """Records that a sink has delivered since its server started."""
    return int(server.status()["sinks"][sink]["delivered"])


# A second deliverer


def _second(workshop: Workshop, rounds: int, plan: Plan) -> Iterator[Sample]:
    """How much faster two deliverers are than one, where the time goes by waiting for the destination."""
    path = workshop.load(100, plan.load)
    table = {"type": "file", "directory": "unused", "delivery": {"max_records": WRITTEN, "in_flight": 1}, "start": "oldest"}
    journal = Journal(workshop, {"slow": table})
    needed = rounds * (3 * WATCHED + SHIFT) / WRITE * WRITTEN
    _filled(workshop, journal.half("receive"), path, round(needed / 100))
    with journal.half("deliver", instance="one", program=SLOW) as first:
        for _ in range(rounds):
            until(lambda: _owns(first) == PARTITIONS, "the first one has everything", ARRIVED)
            alone = _rate(first)
            with journal.half("deliver", instance="two", program=SLOW) as second:
                until(lambda: _owns(first) == _owns(second) == PARTITIONS / 2, "each has its share", ARRIVED)
                together = _rate(first, second)
            yield {"occurrences_per_s": together, "alone occurrences_per_s": alone, "x_alone": together / alone}
        if _settled(first, "slow") >= needed:
            raise Lost("there was nothing left to deliver")


def _owns(half: Half) -> float:
    return total(half.samples(), "btfeed_partitions")


def _rate(*servers: Server) -> float:
    """Records a second of all together, while they are watched."""
    began, before = time.perf_counter(), sum(_settled(server, "slow") for server in servers)
    time.sleep(WATCHED)
    return (sum(_settled(server, "slow") for server in servers) - before) / (time.perf_counter() - began)
