"""The records of a write as messages: which partition each belongs to, and batches of them.

Natively where that was built (native/messages), else in Python and by aiokafka's own builder. The plain way says what is
right: before compression, both give the same bytes. BTFEED_PLAIN=1 in the environment asks for it alone.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Literal, Protocol

from aiokafka import codec

from sinks.batch import Batch, Transaction
from sinks.kafka import murmur2 as _murmur2
from sinks.kafka.builder import FinishedBatch
from sinks.kafka.columns import numbers, packed, packed_bytes
from sinks.shared.cloud_events import Envelopes, Header
from sinks.shared.optional import optional

INTERFACE = 1
"""Of sinks._messages; one that was built for another is not used."""

Key = Literal["visit", "name", "id"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
Indexes = Sequence[int]
Place = tuple[str, int]
"""Topic and partition."""

_CODECS: Mapping[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip": (1, partial(codec.gzip_encode, compresslevel=6)),
    "snappy": (2, codec.snappy_encode),
    "lz4": (3, partial(codec.lz4_encode, level=1)),
}
"""Those of aiokafka: number and function. At its own level, 9, gzip takes three times as long for a twentieth less, and lz4
eight times as long for a fifth less."""


native = optional("sinks._messages", INTERFACE)
"""sinks._messages where it runs."""


@dataclass(frozen=True, slots=True)
class MessageFormat:
    """What messages of a sink are like; see KafkaSettings. envelopes: they make the headers, where those are wanted."""

    key: Key
    headers: bool
    compression: Compression
    batch_size: int
    envelopes: Envelopes


class Messages(Protocol):
    """The records of one write. Several threads may ask for batches."""

    def lanes(
        self, runs: Sequence[tuple[str, int]], partitions: Mapping[str, int], without: Collection[int]
    ) -> dict[Place, Indexes]:
        """The indexes of the records that go to each partition, in order, but for those `without`.

        runs        topics, and how many records go to each, in the records' order
        partitions  how many a topic has
        """

    def batch(self, indexes: Indexes, empty: Callable[[], Any]) -> Any:
        """A batch for aiokafka of the records at `indexes`, as many as there is room for. empty: makes one of its own."""


class PlainMessages:
    """Columns of equal length, appended to batches of aiokafka's."""

    def __init__(
        self, form: MessageFormat, batch: Batch, values: Sequence[bytes] | None, timestamps: Sequence[int]
    ) -> None:
        self._headers = form.envelopes.headers if form.headers else no_headers
        self.ids = [*batch.ids]  # a column that is joined of several is slow to look into
        self.bodies = batch.bodies
        self.values = self.bodies if values is None else values
        self.timestamps = timestamps
        keys: Iterable[str] = self.ids if form.key == "id" else batch.keys
        if form.key == "name":
            keys = map(form.envelopes.name, self.ids, self.bodies)
        self.keys = [*map(str.encode, keys)]

    def headers(self, index: int) -> list[Header]:
        """Made when they are needed: kept, so many lists would cost more in garbage collection than in their making."""
        return self._headers(self.ids[index], self.bodies[index])

    def lanes(
        self, runs: Sequence[tuple[str, int]], partitions: Mapping[str, int], without: Collection[int]
    ) -> dict[Place, Indexes]:
        found: dict[Place, list[int]] = {}
        topics = (topic for topic, count in runs for _ in range(count))
        for index, (topic, key) in enumerate(zip(topics, _murmur2.hashes(self.keys), strict=True)):
            if index not in without:
                found.setdefault((topic, key % partitions[topic]), []).append(index)
        return {**found}

    def batch(self, indexes: Indexes, empty: Callable[[], Any]) -> Any:
        batch = empty()
        keys, values, timestamps = self.keys, self.values, self.timestamps
        for i in indexes:
            stamp = timestamps[i] if len(timestamps) > 1 else timestamps[0]
            if not batch.append(timestamp=stamp, key=keys[i], value=values[i], headers=self.headers(i)):
                break
        return batch


class NativeMessages:
    """Memory that native code reads, without the interpreter's lock. Where that has a bug, the plain way is asked."""

    def __init__(
        self, writer: Any, form: MessageFormat, batch: Batch, values: Sequence[bytes] | None, timestamps: Sequence[int]
    ) -> None:
        assert native, "it was not built"
        self._form = form
        self._plainly = partial(PlainMessages, form, batch, values, timestamps)
        ids, bodies = packed(batch.ids), (batch.parts, numbers(batch.sizes))
        keys = ids if form.key == "id" else packed(batch.keys) if form.key == "visit" else writer.names(ids, bodies)
        others = None if values is None else packed_bytes(values)
        self._native = native.Messages(writer, ids, keys, bodies, others, numbers(timestamps))

    def lanes(
        self, runs: Sequence[tuple[str, int]], partitions: Mapping[str, int], without: Collection[int]
    ) -> dict[Place, Indexes]:
        topics = [*partitions]
        places = {topic: place for place, topic in enumerate(topics)}
        try:
            numbered = [(places[topic], count) for topic, count in runs]
            found = self._native.lanes(numbered, [*partitions.values()], sorted(without))
        except RuntimeError:  # so it says that it has a bug
            return self._plainly().lanes(runs, partitions, without)
        return {(topics[topic], number): memoryview(indexes).cast("I") for topic, number, indexes in found}

    def batch(self, indexes: Indexes, empty: Callable[[], Any]) -> Any:
        form = self._form
        try:
            found = self._native.batch(indexes, form.batch_size, form.headers, form.compression == "zstd")
        except RuntimeError:
            return self._plainly().batch(indexes, empty)
        if form.compression in _CODECS:
            number, compress = _CODECS[form.compression]
            records = found.records()
            compressed = compress(records)
            if len(compressed) < len(records):
                found.replace(number, compressed)
        return FinishedBatch(found)


class MessageBuilder:
    """Makes messages of one form."""

    def __init__(self, form: MessageFormat) -> None:
        self._form = form
        self._writer = native.Writer(form.envelopes) if native else None

    def messages(self, batch: Batch, values: Sequence[bytes] | None, timestamps: Sequence[int]) -> Messages:
        """Of a batch. values: where those are not the records' JSON. timestamps: milliseconds; one alone is that of all."""
        if self._writer is None:
            return PlainMessages(self._form, batch, values, timestamps)
        return NativeMessages(self._writer, self._form, batch, values, timestamps)


def runs_of(transactions: Sequence[Transaction]) -> Iterable[tuple[Transaction, int]]:
    """Business transactions, and how many records of each stand together. They share the object, and are told by it."""
    if native:
        found: list[tuple[Transaction, int]] = native.runs([*transactions])
        return found
    return [(next(group), 1 + sum(1 for _ in group)) for _, group in groupby(transactions, key=id)]


def no_headers(event_id: str, body: bytes) -> list[Header]:
    return []
