"""Other servers that do the same work on the same posts, measured in the same way, if they are installed.

PEERS says how a peer is started, and what it does not do, which is shown next to its figures. Peers are configured as their
documentation advises. `make bench-peers` builds those that are available; README.md here covers the others.
"""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import NamedTuple

from benchmarks import end_to_end
from benchmarks.end_to_end import Subject
from benchmarks.far_end import FarEnd
from benchmarks.far_ends import FAR_ENDS, file
from benchmarks.job import Job, Plan, Sample
from benchmarks.load import connections
from benchmarks.results import Case
from benchmarks.workshop import Workshop
from tests.servers.installed import CLIENT_JAVA, jdk
from tests.support.harness import until

HERE = Path(__file__).parent
INSTALLED = HERE.parent / ".cache"
PROTO = HERE.parent.parent / "proto"
AS_APPMON = ((100, 1), (10, 64), (1, 64), (1, 4))
"""Occurrences in a post and connections, besides the usual ones."""


class Lack(NamedTuple):
    """What a peer does not do: a short form for pictures, and the full text."""

    short: str
    text: str


@dataclass(frozen=True)
class Peer:
    """program: a file in INSTALLED. config: a file here. far_end: where its records are counted. lacks: what btfeed does
    and this peer, in this configuration, does not. sizes: occurrences in a post. more: further sizes, with connections.
    lag: see Subject; bursts are no shorter than it."""

    program: str
    config: str
    lacks: tuple[Lack, ...]
    far_end: str = "file"
    sizes: tuple[int, ...] = (100, 1_000)
    more: tuple[tuple[int, int], ...] = ()
    lag: float = 0.0

    @property
    def installed(self) -> bool:
        return (INSTALLED / self.program).exists() and not FAR_ENDS[self.far_end].missing()

    def open(self, workshop: Workshop) -> AbstractContextManager[FarEnd]:
        """Where its records are counted."""
        return FAR_ENDS[self.far_end].open(workshop)

    def command(self, workshop: Workshop, variables: Mapping[str, str]) -> list[str]:
        """variables: those that a configuration may use, which are in the environment, too."""
        return [str(INSTALLED / self.program), "-c", str(HERE / self.config)]


class Flume(Peer):
    """An agent of Apache Flume, with a jar as its program, and Flume's own jars beside it."""

    def open(self, workshop: Workshop) -> AbstractContextManager[FarEnd]:
        """Its files have no extension."""
        return file(workshop, "*")

    def command(self, workshop: Workshop, variables: Mapping[str, str]) -> list[str]:
        """Its configuration knows no variables, so they are filled in."""
        config, template = workshop.directory() / self.config, Template((HERE / self.config).read_text(encoding="utf-8"))
        config.write_text(template.substitute(variables), encoding="utf-8")
        jar = INSTALLED / self.program
        java = [str(jdk(CLIENT_JAVA) / "bin" / "java"), "-Xmx1g", "-cp", f"{jar}:{jar.parent / 'lib'}/*"]
        return [*java, "org.apache.flume.node.Application", "-n", "agent1", "-f", str(config)]


NOT_DURABLE = Lack(
    "not durable",
    "answers once its records are written, without a sync: a power failure can lose what it acknowledged",
)
NO_QUEUE = Lack("no journal", "no journal: a second output that is down would block the first")
NO_RULES = Lack("no validation", "no validation, no dead letters, no limit on occurrences per post")
FEWER = Lack(
    "not all fields",
    "no event.id, no navigation times, AppMon's own names of measures and dimensions; business transactions without a type "
    "are left out",
)
NOT_ALL = Lack("not all fields", "no event.id, no names for measures and dimensions, times as numbers, ids as text")

EARLY = Lack("not durable", "answers before its records are written: what is in its memory is lost when the process ends")

PEERS = {
    "bento, file": Peer("bento", "bento-file.yaml", (NOT_DURABLE, NO_QUEUE, NO_RULES), more=AS_APPMON),
    "bento, file, fields as they are": Peer(
        "bento", "bento-as-is.yaml", (NOT_DURABLE, NO_QUEUE, NO_RULES, NOT_ALL), more=AS_APPMON
    ),
    "bento, kafka": Peer("bento", "bento-kafka.yaml", (NO_QUEUE, NO_RULES), "kafka"),
    "flume bridge, file": Flume(
        "flume/dtFlume.jar", "flume.properties", (EARLY, NO_QUEUE, NO_RULES, FEWER), sizes=(1, 100, 1_000), lag=5.0
    ),
}


def jobs(plan: Plan) -> Iterator[Job]:
    for name, peer in PEERS.items():
        if peer.installed:
            for size, number in (*((size, connections(size)) for size in peer.sizes), *peer.more):
                parameters = {"occurrences": size, "connections": number}
                yield Job(Case("peers", name, parameters), plan.rounds_of("peers"), _bursts(peer, size, number, plan))


def _bursts(peer: Peer, size: int, number: int, plan: Plan) -> Callable[[Workshop], Iterator[Sample]]:
    def run(workshop: Workshop) -> Iterator[Sample]:
        with serving(workshop, peer) as subject:
            path = workshop.load(size, plan.load)
            seconds = max(plan.burst, peer.lag)
            yield from end_to_end.bursts(subject, path, number, plan.rounds_of("peers"), seconds, plan.warm)

    return run


@contextmanager
def serving(workshop: Workshop, peer: Peer) -> Iterator[Subject]:
    """Start the peer, and wait until it listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with ExitStack() as stack:
        far_end = stack.enter_context(peer.open(workshop))
        (table,) = far_end.sinks.values()
        variables = {
            "ADDRESS": f"127.0.0.1:{port}",
            "PORT": str(port),
            "PROTO": str(PROTO),
            "DIRECTORY": str(table.get("directory")),
            "OUTPUT": str(Path(table.get("directory", "")) / "records.ndjson"),
            "BROKERS": str(table.get("bootstrap_servers")),
            "TOPIC": str(table.get("topic")),
        }
        log = stack.enter_context((workshop.directory() / "log").open("wb"))
        process = subprocess.Popen(peer.command(workshop, variables), stdout=log, stderr=log, env=os.environ | variables)
        try:
            until(lambda: _listens(port), f"{peer.program} listens")
            yield Subject(f"http://127.0.0.1:{port}/", process.pid, far_end, lag=peer.lag)
        finally:
            process.terminate()
            process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
