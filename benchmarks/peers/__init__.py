"""Other servers that do the same work on the same posts, measured in the same way, if they are installed.

PEERS says how a peer is started, and what it does not do, which is shown next to its figures. Peers are configured as their
documentation advises. `make bench-peers` builds those that are available; README.md here covers the others.
"""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks import end_to_end
from benchmarks.end_to_end import Subject
from benchmarks.far_ends import FAR_ENDS
from benchmarks.job import Job, Plan, Sample
from benchmarks.load import connections
from benchmarks.results import Case
from benchmarks.workshop import Workshop
from tests.support.harness import until

HERE = Path(__file__).parent
INSTALLED = HERE.parent / ".cache"
PROTO = HERE.parent.parent / "proto"


class Lack(NamedTuple):
    """What a peer does not do: a short form for pictures, and the full text."""

    short: str
    text: str


@dataclass(frozen=True)
class Peer:
    """program: a file in INSTALLED. config: a file here. far_end: where its records are counted. lacks: what btfeed does
    and this peer, in this configuration, does not."""

    program: str
    config: str
    lacks: tuple[Lack, ...]
    far_end: str = "file"

    @property
    def installed(self) -> bool:
        return (INSTALLED / self.program).exists() and not FAR_ENDS[self.far_end].missing()


NOT_DURABLE = Lack(
    "not durable",
    "answers once its records are written, without a sync: a power failure can lose what it acknowledged",
)
NO_QUEUE = Lack("no journal", "no journal: a second output that is down would block the first")
NO_RULES = Lack("no validation", "no validation, no dead letters, no limit on occurrences per post")
NOT_ALL = Lack("not all fields", "no event.id, no names for measures and dimensions, times as numbers, ids as text")

PEERS = {
    "bento, file": Peer("bento", "bento-file.yaml", (NOT_DURABLE, NO_QUEUE, NO_RULES)),
    "bento, file, fields as they are": Peer("bento", "bento-as-is.yaml", (NOT_DURABLE, NO_QUEUE, NO_RULES, NOT_ALL)),
    "bento, kafka": Peer("bento", "bento-kafka.yaml", (NO_QUEUE, NO_RULES), "kafka"),
}


def jobs(plan: Plan) -> Iterator[Job]:
    for name, peer in PEERS.items():
        if peer.installed:
            for size in (100, 1_000):
                parameters = {"occurrences": size, "connections": connections(size)}
                yield Job(Case("peers", name, parameters), plan.rounds_of("peers"), _bursts(peer, size, plan))


def _bursts(peer: Peer, size: int, plan: Plan) -> Callable[[Workshop], Iterator[Sample]]:
    def run(workshop: Workshop) -> Iterator[Sample]:
        with serving(workshop, peer) as subject:
            yield from end_to_end.bursts(
                subject,
                workshop.load(size, plan.load),
                connections(size),
                plan.rounds_of("peers"),
                plan.burst,
                plan.warm,
            )

    return run


@contextmanager
def serving(workshop: Workshop, peer: Peer) -> Iterator[Subject]:
    """Start the peer, and wait until it listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with ExitStack() as stack:
        far_end = stack.enter_context(FAR_ENDS[peer.far_end].open(workshop))
        (table,) = far_end.sinks.values()
        environment = os.environ | {
            "ADDRESS": f"127.0.0.1:{port}",
            "PROTO": str(PROTO),
            "OUTPUT": str(Path(table.get("directory", "")) / "records.ndjson"),
            "BROKERS": str(table.get("bootstrap_servers")),
            "TOPIC": str(table.get("topic")),
        }
        log = stack.enter_context((workshop.directory() / "log").open("wb"))
        command = [str(INSTALLED / peer.program), "-c", str(HERE / peer.config)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            until(lambda: _listens(port), f"{peer.program} listens")
            yield Subject(f"http://127.0.0.1:{port}/", process.pid, far_end)
        finally:
            process.terminate()
            process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
