"""What a record costs in the Kafka sink, in microseconds of CPU, beside bare aiokafka that sends the same messages.

    python -m benchmarks.bench_kafka [--batches 8] [--rounds 7] [--json FILE]

One real broker runs in a process of its own, so that its CPU is in no figure; Maven fetches it where it is not there. Each
batch is 5,000 records, as by default, for three topics of four partitions. Bare aiokafka gets keys, values, headers and
partitions ready-made, and only builds and sends: create_batch, append, send_batch, a task for each partition, acks=all,
idempotent. Each round does all cases in turn; of each the best round counts. Bytes are those of the broker's log.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from benchmarks.bench_stages import Load
from btfeed import post
from btfeed.mapping import Mapper
from btfeed.plan import RecordSettings
from btfeed.schema import MAPS, RECORD_FIELDS
from btfeed.validate import ValidationSettings
from sinks._cloud_events import Header
from sinks.base import Batch, SinkContext
from sinks.kafka import KafkaSettings, KafkaSink, Lane, Messages, lay_out
from tests.servers.kafka import Kafka, shared

RECORDS = 5_000
PARTITIONS = 4
CATEGORIES = ("purepath", "user_action", "visit")
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
WAYS: dict[str, dict[str, Any]] = {codec: {"compression": codec} for codec in CODECS} | {
    "none, no headers": {"compression": "none", "headers": "none"}
}


Prepared = tuple[Messages, list[list[Header]], list[Lane]]


class Case:
    """One way to send, to topics of its own; `prepared` are its batches as messages and lanes."""

    def __init__(self, kafka: Kafka, way: dict[str, Any], batches: Sequence[Batch]) -> None:
        self.kafka = kafka
        self.batches = batches
        self.prefix = f"bench-{uuid.uuid4().hex}"
        self.settings = KafkaSettings.model_validate(
            {"bootstrap_servers": kafka.bootstrap, "topic": self.prefix + ".{category}"} | way
        )
        for category in CATEGORIES:
            kafka.make_topic(f"{self.prefix}.{category}", PARTITIONS)

    async def prepare(self) -> None:
        sink = KafkaSink(self.settings, SinkContext("bench", RECORD_FIELDS, MAPS))
        partitions = dict.fromkeys([f"{self.prefix}.{category}" for category in CATEGORIES], PARTITIONS)
        self.prepared: list[Prepared] = []
        for batch in self.batches:
            messages, _ = await sink._messages(batch, sink._topics(batch))
            headers = list(map(messages.headers, batch.ids, messages.bodies))
            self.prepared.append((messages, headers, lay_out(messages, partitions, {})))

    async def sink(self) -> float:
        """CPU seconds of all batches through the sink."""
        sink = KafkaSink(self.settings, SinkContext("bench", RECORD_FIELDS, MAPS))
        await sink.open(None)
        await sink.write(self.batches[0])  # topics known, plans made
        before = time.process_time()
        for batch in self.batches:
            result = await sink.write(batch)
            assert not result.refused
            assert not result.retry
        spent = time.process_time() - before
        await sink.close()
        return spent

    async def bare(self) -> float:
        """CPU seconds of all batches through aiokafka alone."""
        codec = None if self.settings.compression == "none" else self.settings.compression
        producer = AIOKafkaProducer(
            bootstrap_servers=self.kafka.bootstrap, acks="all", enable_idempotence=True,
            compression_type=codec, max_batch_size=self.settings.batch_size,
        )  # fmt: skip
        await producer.start()
        await self._send(producer, *self.prepared[0])
        before = time.process_time()
        for prepared in self.prepared:
            await self._send(producer, *prepared)
        spent = time.process_time() - before
        await producer.stop()
        return spent

    async def _send(
        self, producer: AIOKafkaProducer, messages: Messages, headers: Sequence[list[Header]], lanes: Sequence[Lane]
    ) -> None:
        async def lane(topic: str, partition: int, indexes: Sequence[int]) -> None:
            batch = producer.create_batch()
            append, keys, values = batch.append, messages.keys, messages.values
            stamp = time.time_ns() // 1_000_000
            for index in indexes:
                assert append(timestamp=stamp, key=keys[index], value=values[index], headers=headers[index])
            await (await producer.send_batch(batch, topic, partition=partition))

        await asyncio.gather(*(lane(one.topic, one.partition, one.left) for one in lanes))

    def log_bytes(self) -> int:
        """Of all that the broker keeps of these topics."""
        (broker,) = self.kafka.nodes
        return sum(path.stat().st_size for path in broker.directory.glob(f"data/{self.prefix}*/*.log"))


def load(batches: int) -> list[Batch]:
    """Batches of RECORDS, mapped from posts of 1,000 occurrences."""
    mapper = Mapper(RecordSettings(), ValidationSettings())
    mapped = [mapper.map(body, post.digest(body)).batch for body in Load.make(batches * RECORDS // 1000, 1000).bodies]
    each = RECORDS // 1000
    return [Batch.join(mapped[start : start + each]) for start in range(0, len(mapped), each)]


async def measure(kafka: Kafka, batches: Sequence[Batch], rounds: int) -> dict[str, dict[str, float]]:
    """Way -> CPU microseconds a record of the sink and of bare aiokafka, the sink's rate, and bytes a record."""
    cases = {name: Case(kafka, way, batches) for name, way in WAYS.items()}
    found = {name: {"sink": 1e9, "bare": 1e9, "records_per_second": 0.0, "bytes": 0.0} for name in cases}
    records = sum(map(len, batches))
    for case in cases.values():
        await case.prepare()
    gc.freeze()  # what is ready-made is to cost nobody anything
    for _ in range(rounds):
        for name, case in cases.items():
            best = found[name]
            steps: dict[str, Callable[[], Awaitable[float]]] = {"bare": case.bare, "sink": case.sink}
            for step, run in steps.items():
                before, started = case.log_bytes(), time.perf_counter()
                best[step] = min(best[step], await run() / records * 1e6)
                if step == "sink":
                    sent = records + len(batches[0])
                    best["records_per_second"] = max(best["records_per_second"], sent / (time.perf_counter() - started))
                    best["bytes"] = (case.log_bytes() - before) / sent
    return found


def report(found: dict[str, dict[str, float]]) -> str:
    """The table that people read."""
    lines = [f"{'compression':18} {'sink us':>8} {'bare us':>8} {'ratio':>6} {'records/s':>10} {'bytes':>6}"]
    for name, one in found.items():
        ratio = one["sink"] / one["bare"]
        rate = one["records_per_second"]
        lines.append(f"{name:18} {one['sink']:8.2f} {one['bare']:8.2f} {ratio:6.2f} {rate:10.0f} {one['bytes']:6.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a record costs in the Kafka sink.")
    parser.add_argument("--batches", type=int, default=8, help=f"of {RECORDS} records")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    batches = load(arguments.batches)
    found = asyncio.run(measure(shared(), batches, arguments.rounds))
    size = sum(batch.nbytes for batch in batches) / sum(map(len, batches))
    print(f"batches of {RECORDS} records of {size:.0f} bytes, to {3 * PARTITIONS} partitions; CPU microseconds a record")
    print(report(found))
    if arguments.json:
        about: dict[str, Any] = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        }
        arguments.json.write_text(json.dumps(about | {"record_bytes": size, "kafka": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
