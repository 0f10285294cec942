"""Documents a second into a real Elasticsearch: the sink beside a bare bulk client with the same documents.

    python -m benchmarks.bench_elasticsearch [--posts 40] [--occurrences 1000] [--rounds 8] [--json FILE]

A server is started for it. In each round the sink, the bare client twice, and the sink again write all documents, so that
what else the machine does hits both alike; the median of the rounds' ratios counts. The bare client gets requests that
were made before. Both have as many in flight, and each time the documents go to an index of their own, with the same
template. Rounds before the first that counts warm up the server. CPU is the client's own, in microseconds a document.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import structlog
from elasticsearch import AsyncElasticsearch

from benchmarks.bench_stages import Load
from btfeed import post
from btfeed.mapping import Mapper
from btfeed.plan import RecordSettings
from btfeed.validate import ValidationSettings
from sinks._es_bulk import bulk
from sinks._es_index import IndexName
from sinks.base import Batch
from sinks.elasticsearch import SINK
from tests.servers.elasticsearch import NINE, Elasticsearch
from tests.sink_drivers.elasticsearch import elasticsearch_sink

BATCH = 5_000
IN_FLIGHT = SINK.delivery["in_flight"]
LIMITS = {"http.max_content_length": "100mb", "indexing_pressure.memory.limit": "200mb"}
WARM = 2
"""Rounds that do not count."""
JVM = ("-Xms1g", "-Xmx1g", "-Djava.io.tmpdir=${ES_TMPDIR}")


Spent = tuple[float, float]
"""Seconds, and the client's own CPU seconds."""


class Sides:
    """Each writes all documents once."""

    def __init__(self, load: Load, server: Elasticsearch) -> None:
        mapper = Mapper(RecordSettings(), ValidationSettings())
        whole = Batch.join([mapper.map(body, post.digest(body)).batch for body in load.bodies])
        self.batches = [whole.cut(start, start + BATCH) for start in range(0, len(whole), BATCH)]
        self.documents = len(whole)
        self.server = server
        self._turn = 0

    async def sink(self) -> Spent:
        return await self._side("sink")

    async def bare(self) -> Spent:
        return await self._side("bare")

    async def _side(self, side: str) -> Spent:
        """Both have the same done before, so that the server has rested as long."""
        self._turn += 1
        target = f"bench-{side}{self._turn}"
        sink = elasticsearch_sink(self.server.url, index=target)
        await sink.open(None)
        client = AsyncElasticsearch([self.server.url], request_timeout=60)
        requests: list[Any] = [bulk(batch, IndexName(target)) for batch in self.batches]
        batches, prepared = iter(self.batches), iter(requests)

        async def sinks_worker() -> None:
            for batch in batches:
                result = await sink.write(batch)
                assert not result.refused
                assert not result.retry

        async def bare_worker() -> None:
            for request in prepared:
                reply = await client.bulk(operations=request)
                assert not reply["errors"]

        spent = await self._measured(sinks_worker if side == "sink" else bare_worker)
        await sink.close()
        await client.close()
        self._counted(target)
        return spent

    async def _measured(self, worker: Callable[[], Awaitable[None]]) -> Spent:
        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        return time.perf_counter() - started, time.process_time() - cpu

    def _counted(self, target: str) -> None:
        """All are there; then nothing of them is."""
        self.server.must("POST", f"/{target}/_refresh")
        assert self.server.must("GET", f"/{target}/_count")["count"] == self.documents
        self.server.must("DELETE", f"/{target}")
        self.server.must("DELETE", f"/_index_template/btfeed-{target}")

    def making(self) -> float:
        """CPU microseconds a document of making the requests."""
        index = IndexName("bench-{category}-{date}")
        before = time.process_time()
        for batch in self.batches:
            bulk(batch, index)
        return (time.process_time() - before) / self.documents * 1e6


def run(load: Load, rounds: int) -> Iterator[dict[str, tuple[float, float]]]:
    """Of each round, side -> documents a second and CPU microseconds a document. "making" is of the requests alone."""
    server = Elasticsearch(NINE, settings=LIMITS, jvm=JVM)
    try:
        sides = Sides(load, server.start())
        for number in range(WARM + rounds):
            spent = {"sink": [0.0, 0.0], "bare": [0.0, 0.0]}
            for name, side in (("sink", sides.sink), ("bare", sides.bare), ("bare", sides.bare), ("sink", sides.sink)):
                for place, seconds in enumerate(asyncio.run(side())):
                    spent[name][place] += seconds
            if number >= WARM:
                written = 2 * sides.documents
                found = {name: (written / seconds, cpu / written * 1e6) for name, (seconds, cpu) in spent.items()}
                yield found | {"making": (0.0, sides.making())}
    finally:
        server.remove()


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    parser = argparse.ArgumentParser(description="Documents a second into Elasticsearch, beside a bare bulk client.")
    parser.add_argument("--posts", type=int, default=40)
    parser.add_argument("--occurrences", type=int, default=1_000, help="in a post")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    load = Load.make(arguments.posts, arguments.occurrences)
    print(f"{load.occurrences} documents a round, {BATCH} in a request, {IN_FLIGHT} requests in flight")
    rounds = []
    for found in run(load, arguments.rounds):
        rounds.append(found)
        (sink, sink_cpu), (bare, bare_cpu) = found["sink"], found["bare"]
        print(f"sink {sink:6.0f}/s {sink_cpu:5.2f} us   bare {bare:6.0f}/s {bare_cpu:5.2f} us   ratio {sink / bare:.3f}")
    ratio = statistics.median(found["sink"][0] / found["bare"][0] for found in rounds)
    making = min(found["making"][1] for found in rounds)
    print(f"the sink writes {ratio:.1%} of what the bare client does; making a request takes {making:.2f} us a document")
    if arguments.json:
        about: dict[str, Any] = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        }
        about |= {"elasticsearch": NINE, "ratio": ratio, "making": making, "rounds": rounds}
        arguments.json.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
