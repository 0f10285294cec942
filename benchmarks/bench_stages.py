"""What an occurrence costs at each stage, in microseconds of CPU, and as a ratio to what upb takes merely to parse it.

    python -m benchmarks.bench_stages [--occurrences 1000] [--posts 40] [--rounds 7] [--json FILE]

All stages run on the same seeded posts. Each round measures every stage once, in turn, between two parses: see
benchmarks/measuring.py. CPU is that of the process, threads included. The whole server runs in a process of its own, and
its CPU is read from the kernel; the client's is not in it. It is measured in bursts of about half a second, each a round,
with a parse before and after each in the client's process. Counts are checked: a stage that lost a record has no figure.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import Baseline, Round, Spread, cpu_seconds
from btfeed import post, replay
from btfeed.bt_pb2 import BusinessTransactions
from btfeed.journal.sqlite import SqliteJournal, SqliteSettings
from btfeed.mapping import Mapped, Mapper
from btfeed.metrics import Metrics
from btfeed.plan import RecordSettings
from btfeed.schema import MAPS, RECORD_FIELDS
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
        self.mapper = Mapper(RecordSettings(), ValidationSettings())
        self.mapped = [self.mapper.map(body, digest) for body, digest in zip(load.bodies, self.digests, strict=True)]
        self.turn = 0

    async def parse(self) -> None:
        for body in self.load.bodies:
            BusinessTransactions.FromString(body)

    async def admit(self) -> None:
        found = 0
        for body in self.load.bodies:
            found += post.admit(body, 100_000)
            post.digest(body)
        assert found == self.load.occurrences

    async def map(self) -> None:
        mapped: list[Mapped] = []
        for body, digest in zip(self.load.bodies, self.digests, strict=True):
            mapped.append(self.mapper.map(body, digest))
        assert sum(len(one.batch) for one in mapped) == self.load.occurrences

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


def measure_server(load: Load, directory: Path, rounds: int) -> Iterator[Round]:
    """CPU of `btfeed serve`, each round from the first post of a burst until all is in the file."""
    baseline = Baseline(load.bodies, load.occurrences)
    with Server(directory) as server:
        for number in range(rounds + 1):
            before, started = baseline.measure(), cpu_seconds(server.pid)
            summary = asyncio.run(replay.replay(iter(load.bodies), server.url, connections=8))
            assert not summary.refused, summary.refused
            _wait_for(server, (number + 1) * load.occurrences)
            spent = cpu_seconds(server.pid) - started
            if number:  # the first one warms: plans compiled, file open
                yield baseline.round(spent / load.occurrences * 1e6, before)
        lines = sum(path.read_bytes().count(b"\n") for path in server.files.iterdir())
        assert lines == (rounds + 1) * load.occurrences


def _wait_for(server: Server, records: int) -> None:
    while server.status()["sinks"]["files"]["delivered"] < records:
        time.sleep(0.3)  # asking costs the server, too


def run(posts: int, occurrences: int, rounds: int) -> dict[str, list[Round]]:
    """Stage -> its rounds."""
    load = Load.make(posts, occurrences)
    found: dict[str, list[Round]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        stages = Stages(load, Path(scratch))
        cases: dict[str, Callable[[], Awaitable[None]]] = {
            BASELINE: stages.parse,
            "receive: limits, parse, digest": stages.admit,
            "map: parse, validate, map, encode": stages.map,
            "join batches": stages.join,
            "journal: append and read": stages.journal,
            "file sink: NDJSON": stages.file_sink,
        }
        baseline = Baseline(load.bodies, load.occurrences)
        for number in range(rounds + 1):
            for name, stage in cases.items():
                before = baseline.measure()
                measured = baseline.round(asyncio.run(measure(stage, load.occurrences)), before)
                if number:  # the first one warms
                    found.setdefault(name, []).append(measured)
            _progress(number, rounds)
        whole = "whole server, fsync before each answer"
        found[whole] = list(measure_server(load, Path(scratch) / "server", 2 * rounds))
    return found


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\rround {done} of {of}" + ("\n" if done == of else ""))


def report(found: dict[str, list[Round]]) -> str:
    """The table that people read."""
    lines = [f"{'stage':40} {'us CPU':>9} {'x parse':>9} {'least':>7} {'most':>7}"]
    for name, rounds in found.items():
        cost, ratio = Spread.of([one.cost for one in rounds]), Spread.of([one.ratio for one in rounds])
        lines.append(f"{name:40} {cost.median:9.3f} {ratio.median:9.2f} {ratio.least:7.2f} {ratio.most:7.2f}")
    return "\n".join(lines)


def as_json(found: dict[str, list[Round]]) -> dict[str, Any]:
    """Every round of each stage."""
    return {
        name: {"microseconds": [one.cost for one in rounds], "parse_microseconds": [one.baseline for one in rounds]}
        for name, rounds in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What an occurrence costs at each stage.")
    parser.add_argument("--occurrences", type=int, default=1000, help="in a post")
    parser.add_argument("--posts", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    found = run(arguments.posts, arguments.occurrences, arguments.rounds)
    size = len(mixed(arguments.occurrences)) / arguments.occurrences
    print(f"posts of {arguments.occurrences} occurrences, {size:.0f} bytes each; CPU microseconds an occurrence")
    print(report(found))
    if arguments.json:
        about: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
        about |= {"cores": os.cpu_count(), "occurrences_per_post": arguments.occurrences, "stages": as_json(found)}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
