"""What a sink adds to the bare client that it uses, sending the same records.

Both run in this process, one after the other in each round, and write to the same server. `x_bare` is the sink's CPU
divided by the client's, `rate_of_bare` the sink's rate divided by the client's. The records are prepared before.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from elasticsearch import AsyncElasticsearch

from benchmarks import real_servers
from benchmarks.job import Job, Plan, Sample
from benchmarks.load import Load
from benchmarks.results import Case
from benchmarks.stages import DEFAULTS, map_posts, write_all
from benchmarks.workshop import Workshop
from btfeed.records.mapper import create_mapper
from btfeed.records.schema import MAPS, RECORD_FIELDS
from sinks.base import SinkContext
from sinks.batch import Batch
from sinks.elasticsearch.bulk import bulk_request
from sinks.elasticsearch.index import IndexName
from sinks.elasticsearch.sink import SINK as ELASTICSEARCH
from sinks.kafka.messages import MessageFormat, PlainMessages, transaction_runs
from sinks.kafka.partition_queue import PartitionQueue
from sinks.kafka.settings import KafkaSettings
from sinks.kafka.sink import KafkaSink
from sinks.shared.cloud_events import Envelopes, Header
from tests.servers.elasticsearch import Elasticsearch
from tests.servers.installed import missing

RECORDS = 5_000
"""Records in a batch, the default of sinks."""
MIN_RECORDS = {"kafka": 12 * RECORDS, "elasticsearch": 4 * RECORDS}
"""The least records that each side writes in a round, so that a round takes a second or longer."""
PARTITIONS = 4
CATEGORIES = ("purepath", "user_action", "visit")
CONTEXT = SinkContext("bench", RECORD_FIELDS, MAPS)

Work = Callable[[], Awaitable[None]]


def jobs(plan: Plan) -> Iterator[Job]:
    rounds = plan.rounds_of("bare client")
    if not missing("kafka"):
        for codec in plan.codecs:
            case = Case("bare client", "kafka", {"compression": codec})
            yield Job(case, rounds, _bound(_kafka, codec, rounds, plan.occurrences))
    if not missing("elasticsearch"):
        case = Case("bare client", "elasticsearch")
        yield Job(case, rounds, _bound(_elasticsearch, rounds, plan.occurrences))


def _bound(run: Callable[..., Iterator[Sample]], *arguments: Any) -> Callable[[Workshop], Iterator[Sample]]:
    return lambda workshop: run(workshop, *arguments)


def _batches(occurrences: int) -> list[Batch]:
    """At least two batches of RECORDS, mapped from posts of 1,000."""
    number = max(2, occurrences // RECORDS)
    mapped = map_posts(Load.make(1_000, number * RECORDS), create_mapper(*DEFAULTS))
    each = RECORDS // 1_000
    return [Batch.concat(mapped[start : start + each]) for start in range(0, len(mapped), each)]


async def _pair(sink: Work, bare: Work, records: int, first: bool) -> Sample:
    """Run both once, the sink `first` or second."""
    spent: dict[str, tuple[float, float]] = {}
    for name, work in (("sink", sink), ("bare", bare)) if first else (("bare", bare), ("sink", sink)):
        cpu, started = time.process_time(), time.perf_counter()
        await work()
        spent[name] = time.process_time() - cpu, time.perf_counter() - started
    (cost, seconds), (bare_cost, bare_seconds) = spent["sink"], spent["bare"]
    each = 1e6 / records
    sample = {"cpu_us": cost * each, "bare_cpu_us": bare_cost * each, "x_bare": cost / bare_cost}
    return sample | {"occurrences_per_s": records / seconds, "rate_of_bare": bare_seconds / seconds}


Prepared = tuple[PlainMessages, list[list[Header]], list[PartitionQueue]]


def _kafka(workshop: Workshop, codec: str, rounds: int, occurrences: int) -> Iterator[Sample]:
    """Three topics of four partitions. The bare client gets prepared keys, values, headers and partitions."""
    broker = real_servers.broker(workshop)
    prefix = f"bare{workshop.directory().name}"
    for category in CATEGORIES:
        broker.make_topic(f"{prefix}.{category}", PARTITIONS)
    table = {"bootstrap_servers": broker.bootstrap, "topic": prefix + ".{category}", "compression": codec}
    batches = _batches(max(occurrences, MIN_RECORDS["kafka"]))

    async def run() -> list[Sample]:
        sink = KafkaSink(KafkaSettings.model_validate(table), CONTEXT)
        await sink.open(None)
        producer = AIOKafkaProducer(
            bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=True,
            compression_type=None if codec == "none" else codec, max_batch_size=2**20,
        )  # fmt: skip
        await producer.start()
        prepared = [_prepare(prefix, batch) for batch in batches]

        async def bare() -> None:
            for one in prepared:
                await _send(producer, *one)

        async def through() -> None:
            await write_all(sink, batches, 1)

        records = len(batches) * RECORDS
        samples = [await _pair(through, bare, records, bool(number % 2)) for number in range(rounds + 1)]
        await producer.stop()
        await sink.close()
        return samples[1:]  # the first one is a warm-up

    samples = asyncio.run(run())
    topics = [f"{prefix}.{category}" for category in CATEGORIES]
    arrived = sum(asyncio.run(real_servers.messages(broker.bootstrap, topic, PARTITIONS)) for topic in topics)
    assert arrived == 2 * (rounds + 1) * len(batches) * RECORDS
    logs = (path.stat().st_size for node in broker.nodes for path in node.directory.glob(f"data/{prefix}*/*.log"))
    yield {"log_bytes": sum(logs) / arrived}
    yield from samples


def _prepare(prefix: str, batch: Batch) -> Prepared:
    messages = PlainMessages(MessageFormat("visit", True, "none", 2**20, Envelopes("application/json")), batch, None, [0])
    runs = [(f"{prefix}.{transaction.category}", count) for transaction, count in transaction_runs(batch.transactions)]
    grouped = messages.by_partition(runs, dict.fromkeys([topic for topic, _ in runs], PARTITIONS), [])
    headers = [messages.headers(index) for index in range(len(batch))]
    return messages, headers, [PartitionQueue(*place, indexes) for place, indexes in grouped.items()]


async def _send(
    producer: Any, messages: PlainMessages, headers: Sequence[list[Header]], queues: Sequence[PartitionQueue]
) -> None:
    async def send(queue: PartitionQueue) -> None:
        made = producer.create_batch()
        stamp = time.time_ns() // 1_000_000
        for index in queue.pending:
            key, value = messages.keys[index], messages.values[index]
            assert made.append(timestamp=stamp, key=key, value=value, headers=headers[index])
        await (await producer.send_batch(made, queue.topic, partition=queue.partition))

    await asyncio.gather(*map(send, queues))


# Elasticsearch


def _elasticsearch(workshop: Workshop, rounds: int, occurrences: int) -> Iterator[Sample]:
    """New indexes of one shard in each round, with the same template. The bare client gets prepared requests, so only the
    sink's figures include making them.
    """
    node = real_servers.node(workshop)
    batches = _batches(max(occurrences, MIN_RECORDS["elasticsearch"]))

    async def run() -> list[Sample]:
        return [await _documents(workshop, node, batches, bool(number % 2)) for number in range(rounds + 1)]

    yield from asyncio.run(run())[1:]  # the first one is a warm-up


async def _documents(workshop: Workshop, node: Elasticsearch, batches: list[Batch], first: bool) -> Sample:
    """One round, into indexes that are deleted afterwards."""
    in_flight = ELASTICSEARCH.delivery["in_flight"]
    names = [f"bare{workshop.directory().name}{side}" for side in ("sink", "client")]
    tables = [{"hosts": [node.url], "index": name} for name in names]
    sink, other = (ELASTICSEARCH.create(ELASTICSEARCH.settings.model_validate(table), CONTEXT) for table in tables)
    requests: list[Any] = [bulk_request(batch, IndexName(names[1])) for batch in batches]
    async with AsyncElasticsearch([node.url], request_timeout=60) as client:
        await sink.open(None)
        await other.open(None)  # for its template
        await client.cluster.health()  # connects the client; the sink is connected

        async def through() -> None:
            await write_all(sink, batches, in_flight)

        async def bare() -> None:
            left = iter(requests)

            async def worker() -> None:
                for request in left:
                    assert not (await client.bulk(operations=request))["errors"]

            await asyncio.gather(*(worker() for _ in range(in_flight)))

        sample = await _pair(through, bare, len(batches) * RECORDS, first)
    for one, name in ((sink, names[0]), (other, names[1])):
        await one.close()
        assert real_servers.documents(node, name) == len(batches) * RECORDS
        real_servers.forget(node, name)
    return sample
