"""Turns the records of a write into Kafka messages: groups them by partition, and fills record batches with them.

Native code (native/messages) does this if it was built. The plain path here, with aiokafka's own builder, is the reference:
before compression, both write the same bytes.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Literal, Protocol

from aiokafka import codec

from sinks.batch import Batch, Transaction
from sinks.kafka.columns import pack_bytes, pack_integers, pack_strings
from sinks.kafka.finished_batch import FinishedBatch
from sinks.kafka.native import native
from sinks.kafka.partitions import partition_of_plain
from sinks.shared.cloud_events import Envelopes, Header

Key = Literal["visit", "name", "id"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
Indexes = Sequence[int]
Partition = tuple[str, int]
"""A topic, and the number of one of its partitions."""
Runs = Sequence[tuple[str, int]]
"""The topic of each record, in the records' order: topics, and how many consecutive records go to each."""

_CODECS: Mapping[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip": (1, partial(codec.gzip_encode, compresslevel=6)),
    "snappy": (2, codec.snappy_encode),
    "lz4": (3, partial(codec.lz4_encode, level=1)),
}
"""Kafka's number of each codec, and aiokafka's function. At aiokafka's default level 9, gzip takes three times as long to
save another 5 %, and lz4 eight times as long to save another 20 %."""


@dataclass(frozen=True, slots=True)
class MessageFormat:
    """How a sink's messages look; see KafkaSettings. envelopes: makes the headers, if `headers`. transactional: whether
    batches are parts of transactions."""

    key: Key
    headers: bool
    compression: Compression
    batch_size: int
    envelopes: Envelopes
    transactional: bool = False


class Messages(Protocol):
    """The messages of one write. `next_batch` may be called from several threads."""

    def by_partition(self, runs: Runs, partitions: Mapping[str, int], without: Collection[int]) -> dict[Partition, Indexes]:
        """The indexes of the records for each partition, in order, except those in `without`.

        partitions  the number of partitions of each topic
        """

    def next_batch(self, indexes: Indexes, empty: Callable[[], Any]) -> Any:
        """A batch for aiokafka with the first of the records at `indexes`, as many as fit, and at least one.

        empty  creates an empty batch of aiokafka's
        """


class PlainMessages:
    """The reference: appends each message to a batch of aiokafka's."""

    def __init__(
        self, message_format: MessageFormat, batch: Batch, values: Sequence[bytes] | None, timestamps: Sequence[int]
    ) -> None:
        envelopes = message_format.envelopes
        self._headers = envelopes.headers if message_format.headers else no_headers
        self.ids = [*batch.ids]  # indexing a joined column is slow
        self.bodies = batch.bodies
        self.values = self.bodies if values is None else values
        self.timestamps = timestamps
        keys: Iterable[str] = self.ids if message_format.key == "id" else batch.keys
        if message_format.key == "name":
            keys = map(envelopes.name, self.ids, self.bodies)
        self.keys = [*map(str.encode, keys)]

    def headers(self, index: int) -> list[Header]:
        """The headers of a message. Not kept: garbage collection of all the lists would cost more than they do."""
        return self._headers(self.ids[index], self.bodies[index])

    def by_partition(self, runs: Runs, partitions: Mapping[str, int], without: Collection[int]) -> dict[Partition, Indexes]:
        found: dict[Partition, list[int]] = {}
        topics = (topic for topic, count in runs for _ in range(count))
        for index, (topic, key) in enumerate(zip(topics, self.keys, strict=True)):
            if index not in without:
                found.setdefault((topic, partition_of_plain(key, partitions[topic])), []).append(index)
        return {**found}

    def next_batch(self, indexes: Indexes, empty: Callable[[], Any]) -> Any:
        batch = empty()
        keys, values, timestamps = self.keys, self.values, self.timestamps
        for i in indexes:
            timestamp = timestamps[i] if len(timestamps) > 1 else timestamps[0]
            if not batch.append(timestamp=timestamp, key=keys[i], value=values[i], headers=self.headers(i)):
                break
        return batch


class NativeMessages:
    """Messages in memory that native code reads without Python's lock. After a panic there, the plain path takes over."""

    def __init__(
        self,
        writer: Any,
        message_format: MessageFormat,
        batch: Batch,
        values: Sequence[bytes] | None,
        timestamps: Sequence[int],
    ) -> None:
        assert native, "the native module was not built"
        self._format = message_format
        self._plain = partial(PlainMessages, message_format, batch, values, timestamps)
        ids, bodies = pack_strings(batch.ids), (batch.parts, pack_integers(batch.sizes))
        if message_format.key == "name":
            keys = writer.names(ids, bodies)
        else:
            keys = ids if message_format.key == "id" else pack_strings(batch.keys)
        packed_values = None if values is None else pack_bytes(values)
        self._native = native.Messages(writer, ids, keys, bodies, packed_values, pack_integers(timestamps))

    def by_partition(self, runs: Runs, partitions: Mapping[str, int], without: Collection[int]) -> dict[Partition, Indexes]:
        topics = [*partitions]
        numbers = {topic: number for number, topic in enumerate(topics)}
        try:
            numbered = [(numbers[topic], count) for topic, count in runs]
            found = self._native.by_partition(numbered, [*partitions.values()], sorted(without))
        except RuntimeError:  # a panic in native code
            return self._plain().by_partition(runs, partitions, without)
        return {(topics[topic], partition): memoryview(indexes).cast("I") for topic, partition, indexes in found}

    def next_batch(self, indexes: Indexes, empty: Callable[[], Any]) -> Any:
        compression = self._format.compression
        try:
            batch = self._native.batch(indexes, self._format.batch_size, self._format.headers, compression == "zstd")
        except RuntimeError:  # a panic in native code
            return self._plain().next_batch(indexes, empty)
        if compression in _CODECS:
            number, compress = _CODECS[compression]
            records = batch.records()
            compressed = compress(records)
            if len(compressed) < len(records):
                batch.replace(number, compressed)
        return FinishedBatch(batch, self._format.transactional)


class MessageBuilder:
    """Builds messages of one format, natively if possible."""

    def __init__(self, message_format: MessageFormat) -> None:
        self._format = message_format
        self._writer = native.Writer(message_format.envelopes) if native else None

    def build(self, batch: Batch, values: Sequence[bytes] | None, timestamps: Sequence[int]) -> Messages:
        """The messages of `batch`.

        values      the messages' values, or None if they are the records' JSON
        timestamps  in milliseconds since the epoch; a single one is that of all messages
        """
        if self._writer is None:
            return PlainMessages(self._format, batch, values, timestamps)
        return NativeMessages(self._writer, self._format, batch, values, timestamps)

    def described(self, batch: Batch) -> Iterator[dict[str, Any]]:
        """The key and the headers of each message, if it has headers."""
        messages = PlainMessages(self._format, batch, None, [0])
        for index, key in enumerate(messages.keys):
            headers = {name: value.decode() for name, value in messages.headers(index)}
            yield {"key": key.decode()} | ({"headers": headers} if headers else {})


def transaction_runs(transactions: Sequence[Transaction]) -> Iterable[tuple[Transaction, int]]:
    """Business transactions, and how many consecutive records belong to each. Compares objects by identity."""
    if native:
        found: list[tuple[Transaction, int]] = native.runs([*transactions])
        return found
    return [(next(group), 1 + sum(1 for _ in group)) for _, group in groupby(transactions, key=id)]


def no_headers(event_id: str, body: bytes) -> list[Header]:
    """Headers of messages that have none."""
    return []
