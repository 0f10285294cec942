"""A broker that keeps nothing: the part of Kafka's protocol that a producer needs. It only counts the records of batches.

Every topic exists, with one partition, which it leads. It offers one version of each request: the highest one without
tagged fields that aiokafka knows. Another version ends the connection. Requests are described at
https://kafka.apache.org/protocol, batches at https://kafka.apache.org/documentation/#recordbatch.
"""

import asyncio
from collections.abc import Callable
from io import BytesIO
from struct import unpack_from
from typing import Any, cast

from aiokafka.protocol.admin import ApiVersionRequest_v0, ApiVersionResponse_v0
from aiokafka.protocol.api import RequestHeader_v1, ResponseHeader_v0
from aiokafka.protocol.metadata import MetadataRequest_v5, MetadataResponse_v5
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7
from aiokafka.protocol.transaction import InitProducerIdRequest_v0, InitProducerIdResponse_v0

PREFIX = 4
"""Bytes of the length before each request and answer."""
BATCH_HEAD = 12
"""Bytes of a record batch that its length does not include."""
LENGTH, COUNT = 8, 57
"""Offsets of a batch's length and of its number of records."""


class KafkaHole(asyncio.Protocol):
    """One connection. note: called with the number of records that came."""

    def __init__(self, note: Callable[[int], None]) -> None:
        self._note = note
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= PREFIX:
            (size,) = unpack_from(">i", self._buffer)
            if len(self._buffer) < PREFIX + size:
                return
            request = bytes(memoryview(self._buffer)[PREFIX : PREFIX + size])
            del self._buffer[: PREFIX + size]
            answer = self._answer(request)
            self._transport.write(len(answer).to_bytes(PREFIX, "big") + answer)

    def _answer(self, request: bytes) -> bytes:
        """The answer without its length. Raises KeyError for a request that was not offered, which ends the connection."""
        stream = BytesIO(request)
        key, version, number, _ = RequestHeader_v1.SCHEMA.decode(stream)
        kind, answer = _ANSWERS[key, version]
        head: bytes = ResponseHeader_v0(number).encode()
        body: bytes = answer(self, kind.decode(stream)).encode()
        return head + body

    def _versions(self, request: Any) -> Any:
        return ApiVersionResponse_v0(0, [(key, version, version) for key, version in _ANSWERS])

    def _metadata(self, request: Any) -> Any:
        host, port = self._transport.get_extra_info("sockname")
        partition: tuple[Any, ...] = (0, 0, 0, [0], [0], [])  # error, number, leader, replicas, those in sync, those down
        topics = [(0, name, False, [partition]) for name in request.topics or ()]
        return MetadataResponse_v5(0, [(0, host, port, None)], "black-hole", 0, topics)

    def _producer_id(self, request: Any) -> Any:
        return InitProducerIdResponse_v0(0, 0, 1, 0)

    def _produce(self, request: Any) -> Any:
        answered = []
        for name, partitions in request.topics:
            self._note(sum(records_in(batches) for _, batches in partitions))
            answered.append((name, [(number, 0, 0, -1, 0) for number, _ in partitions]))
        return ProduceResponse_v7(answered, 0)


_ANSWERS: dict[tuple[int, int], tuple[Any, Callable[[KafkaHole, Any], Any]]] = {
    (kind.API_KEY, kind.API_VERSION): (kind, answered)
    for kind, answered in (
        (ApiVersionRequest_v0, KafkaHole._versions),
        (MetadataRequest_v5, KafkaHole._metadata),
        (InitProducerIdRequest_v0, KafkaHole._producer_id),
        (ProduceRequest_v7, KafkaHole._produce),
    )
}
"""By API key and version."""


def records_in(batches: bytes) -> int:
    """The number of records in consecutive batches."""
    at = found = 0
    while at < len(batches):
        found += unpack_from(">i", batches, at + COUNT)[0]
        at += BATCH_HEAD + unpack_from(">i", batches, at + LENGTH)[0]
    return found
