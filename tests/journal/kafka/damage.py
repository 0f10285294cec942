"""Batches in a topic, and brokers that give some of them as from a damaged disk, or nothing at all."""

import asyncio
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Literal

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import fetcher
from aiokafka.errors import NodeNotReadyError
from aiokafka.protocol.fetch import FetchRequest

from btfeed.journal.kafka.messages import to_message
from btfeed.posts.post import Post, digest

Where = Literal["records", "attributes"]
_broker = ContextVar[int]("_broker")


class Damage:
    """What readers in this process get from brokers.

    offsets   of the first messages of batches that are damaged
    brokers   those that give them so; all if empty
    away      brokers that give nothing
    asked     the broker of each fetch that had a damaged batch
    """

    def __init__(self) -> None:
        self.offsets: set[int] = set()
        self.brokers: set[int] = set()
        self.away: set[int] = set()
        self.asked: list[int] = []


def batches(content: bytes | bytearray) -> Iterator[int]:
    """Where each whole record batch begins that brokers store or send. It begins with the offset of its first message. See
    Kafka's documentation of its protocol."""
    at = 0
    while at + 61 <= len(content):
        yield at
        at += 12 + int.from_bytes(content[at + 8 : at + 12])


def damage(monkeypatch: pytest.MonkeyPatch, where: Where = "records") -> Damage:
    """Change the bytes that real brokers give, until the test ends. where: what of a batch is damaged; a bit in the
    attributes makes it one without records."""
    damaged = Damage()
    whole, send = fetcher.MemoryRecords, AIOKafkaClient.send

    async def sent(client: Any, broker: int, request: Any, **more: Any) -> Any:
        if isinstance(request, FetchRequest):
            if broker in damaged.away:
                raise NodeNotReadyError(f"broker {broker} is away")
            _broker.set(broker)
        return await send(client, broker, request, **more)

    def records(fetched: bytes) -> Any:
        changed = bytearray(fetched)
        for at in batches(changed):
            if int.from_bytes(changed[at : at + 8]) in damaged.offsets:
                damaged.asked.append(_broker.get())
                if not damaged.brokers or _broker.get() in damaged.brokers:
                    if where == "records":
                        changed[at + 61 : at + 71] = b"\xff" * 10
                    else:
                        changed[at + 22] ^= 0x20  # a control batch
        return whole(bytes(changed))

    monkeypatch.setattr(AIOKafkaClient, "send", sent)
    monkeypatch.setattr(fetcher, "MemoryRecords", records)
    return damaged


def write_batches(bootstrap: str, topic: str, partition: int, *batches: Sequence[Post]) -> None:
    """Append posts to a partition, in these batches."""

    async def write() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_batch_size=2**20)
        await producer.start()
        try:
            for posts in batches:
                batch = producer.create_batch()
                for each in posts:
                    key, value, timestamp, headers = to_message(each, digest(each.body))
                    assert batch.append(key=key, value=value, timestamp=timestamp, headers=headers)
                await (await producer.send_batch(batch, topic, partition=partition))
        finally:
            await producer.stop()

    asyncio.run(write())
