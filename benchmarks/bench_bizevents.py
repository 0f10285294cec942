"""What an event costs in the bizevents sink, in microseconds of CPU, and as a ratio to what upb takes merely to parse it.

    python -m benchmarks.bench_bizevents [--occurrences 400] [--posts 50] [--rounds 7] [--json FILE]

The stand-in takes everything and keeps nothing, in a process of its own, so that its CPU is in no figure. Each post's
records are one batch of 400, as by default; each round writes all of them once in each way, several in flight, between two
parses: see benchmarks/measuring.py.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.bench_stages import BASELINE, Load, as_json, measure, report
from benchmarks.measuring import Baseline, Round
from btfeed import post
from btfeed.bt_pb2 import BusinessTransactions
from btfeed.mapping import Mapper
from btfeed.plan import RecordSettings
from btfeed.schema import MAPS, RECORD_FIELDS
from btfeed.validate import ValidationSettings
from sinks.base import SinkContext
from sinks.bizevents import SINK, BizeventsSettings, BizeventsSink, cloud_events, plain

IN_FLIGHT = SINK.delivery["in_flight"]
WAYS: dict[str, dict[str, Any]] = {"JSON": {}, "CloudEvents": {"cloud_events": True}, "JSON, gzip": {"gzip": True}}


@contextmanager
def black_hole() -> Iterator[str]:
    """The url of a stand-in that takes everything."""
    command = [sys.executable, "-m", "tests.servers.bizevents"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


class Stages:
    """Each does its work on the whole load once."""

    def __init__(self, load: Load, url: str) -> None:
        mapper = Mapper(RecordSettings(), ValidationSettings())
        self.load = load
        self.url = url
        self.batches = [mapper.map(body, post.digest(body)).batch for body in load.bodies]

    async def parse(self) -> None:
        for body in self.load.bodies:
            BusinessTransactions.FromString(body)

    async def join(self) -> None:
        for batch in self.batches:
            plain(batch)

    async def wrap(self) -> None:
        for batch in self.batches:
            cloud_events(batch)

    def write(self, way: dict[str, Any]) -> Callable[[], Awaitable[None]]:
        """Open, write all batches, close."""

        async def stage() -> None:
            settings = BizeventsSettings.model_validate({"url": self.url, "api_token": "dt0c01.bench"} | way)
            sink = BizeventsSink(settings, SinkContext("bench", RECORD_FIELDS, MAPS))
            await sink.open(None)
            left = iter(self.batches)

            async def worker() -> None:
                for batch in left:
                    result = await sink.write(batch)
                    assert not result.refused
                    assert not result.retry

            await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
            await sink.close()

        return stage


def run(posts: int, occurrences: int, rounds: int) -> tuple[dict[str, list[Round]], float]:
    """Stage -> its rounds; and events a second of the fastest JSON round."""
    load = Load.make(posts, occurrences)
    found: dict[str, list[Round]] = {}
    rate = 0.0
    with black_hole() as url:
        stages = Stages(load, url)
        cases: dict[str, Callable[[], Awaitable[None]]] = {
            BASELINE: stages.parse,
            "join to a JSON array": stages.join,
            "wrap in CloudEvents": stages.wrap,
        }
        cases |= {f"write: {name}": stages.write(way) for name, way in WAYS.items()}
        baseline = Baseline(load.bodies, load.occurrences)
        for number in range(rounds + 1):
            for name, stage in cases.items():
                before, started = baseline.measure(), time.perf_counter()
                cost = asyncio.run(measure(stage, load.occurrences))
                seconds = time.perf_counter() - started
                measured = baseline.round(cost, before)
                if number:  # the first one warms
                    found.setdefault(name, []).append(measured)
                if name == "write: JSON":
                    rate = max(rate, load.occurrences / seconds)
    return found, rate


def main() -> None:
    parser = argparse.ArgumentParser(description="What an event costs in the bizevents sink.")
    parser.add_argument("--occurrences", type=int, default=400, help="in a post, and in a request")
    parser.add_argument("--posts", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    found, rate = run(arguments.posts, arguments.occurrences, arguments.rounds)
    print(f"requests of {arguments.occurrences} events, {IN_FLIGHT} in flight; CPU microseconds an event")
    print(report(found))
    print(f"{rate:.0f} events a second, plain JSON, in one process")
    if arguments.json:
        about: dict[str, Any] = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        }
        about |= {"events_per_request": arguments.occurrences, "events_per_second": rate, "stages": as_json(found)}
        arguments.json.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
