"""What an occurrence costs at each stage, in microseconds of CPU, and as a ratio to what upb takes merely to parse it.

    python -m benchmarks.bench_stages [--occurrences 1000] [--posts 40] [--rounds 7] [--json FILE]

All stages run on the same seeded posts. Each round measures every stage once, in turn, so that a slow moment of the
machine hits all of them; of each stage the best round counts. CPU is that of the process, threads included. The whole
server runs in a process of its own, and its CPU is read from the kernel; the client's is not in it. Counts are checked: a
stage that lost a record has no figure.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from btfeed import native, post, replay, transcode
from btfeed.bt_pb2 import BusinessTransactions
from btfeed.journal.sqlite import SqliteJournal, SqliteSettings
from btfeed.mapping import Mapper
from btfeed.metrics import Metrics
from btfeed.plan import RecordSettings
from btfeed.schema import MAPS, RECORD_FIELDS
from btfeed.transcode import PostMapper
from btfeed.validate import ValidationSettings
from sinks.base import Batch, SinkContext
from sinks.file import FileSettings, FileSink
from tests.harness import Server
from tests.posts import mixed

BASELINE = "parse (upb alone)"


@dataclass(frozen=True, slots=True)
class Load:
    """The posts that every stage works on."""

    bodies: list[bytes]
    occurrences: int  # in all of them

    @staticmethod
    def make(posts: int, occurrences: int) -> "Load":
        return Load([mixed(occurrences, seed) for seed in range(posts)], posts * occurrences)


class Stages:
    """Each method does one stage's work on the whole load once."""

    def __init__(self, load: Load, directory: Path) -> None:
        self.load = load
        self.directory = directory
        self.digests = [post.digest(body) for body in load.bodies]
        self.mapper = transcode.mapper(RecordSettings(), ValidationSettings())
        self.plain_mapper = Mapper(RecordSettings(), ValidationSettings())
        self.mapped = [self.mapper.map(body, digest) for body, digest in zip(load.bodies, self.digests, strict=True)]
        self.turn = 0

    async def parse(self) -> None:
        for body in self.load.bodies:
            BusinessTransactions.FromString(body)

    async def inspect(self) -> None:
        assert sum(post.inspect(body, 100_000)[0] for body in self.load.bodies) == self.load.occurrences

    async def inspect_plainly(self) -> None:
        found = 0
        for body in self.load.bodies:
            found += post.admit_plainly(body, 100_000)
            blake2b(body, digest_size=32).digest()
        assert found == self.load.occurrences

    async def map(self) -> None:
        self._map(self.mapper)

    async def map_plainly(self) -> None:
        self._map(self.plain_mapper)

    def _map(self, mapper: PostMapper) -> None:
        found = 0
        for body, digest in zip(self.load.bodies, self.digests, strict=True):
            found += len(mapper.map(body, digest).batch)
        assert found == self.load.occurrences

    async def journal(self) -> None:
        """Append each post, and read all of them back."""
        self.turn += 1
        settings = SqliteSettings(directory=str(self.directory / f"journal-{self.turn}"))
        journal = SqliteJournal(settings, {"sink": "oldest"}, Metrics(), 100_000)
        await journal.open()
        await asyncio.gather(
            *(journal.append(post.Post(b, d, 0, "peer")) for b, d in zip(self.load.bodies, self.digests, strict=True))
        )
        seq, read = 1, 0
        while read < len(self.load.bodies):
            entries = await journal.read(seq, 2**20)
            read, seq = read + len(entries), entries[-1].seq + 1
        await journal.close()

    async def file_sink(self) -> None:
        """Write each post's records as one batch, fsync included."""
        self.turn += 1
        sink = FileSink(FileSettings(directory=str(self.directory / f"files-{self.turn}")), _CONTEXT)
        await sink.open(None)
        for one in self.mapped:
            await sink.write(one.batch)
        await sink.close()

    async def join(self) -> None:
        """Cut and join batches, as delivery does."""
        assert len(Batch.join([one.batch for one in self.mapped])) == self.load.occurrences


_CONTEXT = SinkContext("bench", RECORD_FIELDS, MAPS)


async def measure(stage: Callable[[], Awaitable[None]], occurrences: int) -> float:
    """CPU microseconds an occurrence."""
    before = time.process_time()
    await stage()
    return (time.process_time() - before) / occurrences * 1e6


def measure_server(load: Load, directory: Path) -> float:
    """CPU microseconds an occurrence of `btfeed serve`, from the first post until all is in the file."""
    with Server(directory) as server:
        asyncio.run(replay.replay(iter(load.bodies[:2]), server.url))  # warm: plans compiled, file open
        _wait_for(server, 2 * load.occurrences // len(load.bodies))
        before = _cpu_seconds(server.pid)
        summary = asyncio.run(replay.replay(iter(load.bodies[2:]), server.url, connections=8))
        assert not summary.refused, summary.refused
        _wait_for(server, load.occurrences)
        spent = _cpu_seconds(server.pid) - before
    return spent / summary.occurrences * 1e6


def _wait_for(server: Server, records: int) -> None:
    while server.status()["sinks"]["files"]["delivered"] < records:
        time.sleep(0.3)  # asking costs the server, too


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(posts: int, occurrences: int, rounds: int) -> dict[str, float]:
    """Stage -> CPU microseconds an occurrence, the best of `rounds`."""
    load = Load.make(posts, occurrences)
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        stages = Stages(load, Path(scratch))
        cases: dict[str, Callable[[], Awaitable[None]]] = {
            BASELINE: stages.parse,
            f"receive: limits, parse, digest ({native.PATH})": stages.inspect,
            "receive (plain)": stages.inspect_plainly,
            f"map: parse, validate, map, encode ({native.PATH})": stages.map,
            "map (plain)": stages.map_plainly,
            "join batches": stages.join,
            "journal: append and read": stages.journal,
            "file sink: NDJSON": stages.file_sink,
        }
        for number in range(rounds):
            for name, stage in cases.items():
                best[name] = min(best.get(name, 1e9), asyncio.run(measure(stage, load.occurrences)))
            _progress(number + 1, rounds)
        whole = "whole server, fsync before each answer"
        big = Load.make(max(posts, 200_000 // occurrences), occurrences)
        best[whole] = min(measure_server(big, Path(scratch) / f"server-{number}") for number in range(rounds))
    return best


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\rround {done} of {of}" + ("\n" if done == of else ""))


def report(figures: dict[str, float]) -> str:
    """The table that people read."""
    lines = [f"{'stage':46} {'us CPU':>9} {'x parse':>9}"]
    for name, cost in figures.items():
        lines.append(f"{name:46} {cost:9.3f} {cost / figures[BASELINE]:9.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What an occurrence costs at each stage.")
    parser.add_argument("--occurrences", type=int, default=1000, help="in a post")
    parser.add_argument("--posts", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    figures = run(arguments.posts, arguments.occurrences, arguments.rounds)
    size = len(mixed(arguments.occurrences)) / arguments.occurrences
    print(f"posts of {arguments.occurrences} occurrences, {size:.0f} bytes each; CPU microseconds an occurrence")
    print(report(figures))
    if arguments.json:
        about: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
        about |= {"cores": os.cpu_count(), "occurrences_per_post": arguments.occurrences, "microseconds": figures}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
