"""Native code writes the same record batches as aiokafka's own builder, which is the reference."""

import inspect
import json
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from aiokafka.producer import message_accumulator
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, note
from hypothesis import strategies as st

import sinks
from sinks import _messages
from sinks.base import WriteResult
from sinks.batch import Batch, Joined, slice_parts
from sinks.kafka import messages as _kafka_messages
from sinks.kafka.columns import pack_integers, pack_strings
from sinks.kafka.finished_batch import FinishedBatch
from sinks.kafka.messages import MessageBuilder, MessageFormat, Messages, NativeMessages, PlainMessages
from sinks.kafka.native import INTERFACE, native
from sinks.kafka.partitions import partition_of, partition_of_plain
from sinks.shared.cloud_events import MAX_CACHED_SIZE, Envelopes
from sinks.shared.optional import optional
from tests.records.test_native_columns import overtakes
from tests.servers.kafka import Kafka
from tests.sinks.drivers import opened
from tests.sinks.drivers.kafka import headers, kafka_sink, new_topic, read_topic
from tests.support.fakes import TRANSACTION, batch_of, mapped

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
PRODUCER = (4711, 3, 12345)
LARGE = 2**20


def form(**changes: Any) -> MessageFormat:
    standard: dict[str, Any] = {"key": "visit", "headers": True, "compression": "none", "batch_size": LARGE}
    return MessageFormat(**standard | changes, envelopes=Envelopes("application/json"))


def both(
    like: MessageFormat,
    batch: Batch,
    values: Sequence[bytes] | None = None,
    timestamps: Sequence[int] = (1_700_000_000_000,),
) -> tuple[Messages, Messages]:
    """Native and plain messages, each with envelopes of their own, since those have caches."""
    native = MessageBuilder(like).build(batch, values, timestamps)
    assert isinstance(native, NativeMessages)
    own = MessageFormat(
        like.key, like.headers, like.compression, like.batch_size, Envelopes("application/json"), like.transactional
    )
    return native, PlainMessages(own, batch, values, timestamps)


def batches(messages: Messages, like: MessageFormat, records: int) -> list[Any]:
    """Batches of the first records, all in one partition, as PRODUCER would send them."""
    (indexes,) = messages.by_partition([("t", records)], {"t": 1}, {}).values()
    codec, made = CODECS.index(like.compression), []
    while len(indexes):
        one = messages.next_batch(
            indexes, lambda: BatchBuilder(like.batch_size, codec, is_transactional=like.transactional)
        )
        one._set_producer_state(*PRODUCER)
        made.append(one)
        indexes = indexes[one.record_count() :]
    return made


def equal(
    like: MessageFormat, batch: Batch, values: Sequence[bytes] | None = None, timestamps: Sequence[int] = (7,)
) -> int:
    """Check that both paths write the same bytes and end batches at the same record. Returns the number of batches."""
    found, expected = (batches(one, like, len(batch)) for one in both(like, batch, values, timestamps))
    assert [bytes(one._build()) for one in found] == [bytes(one._build()) for one in expected]
    return len(found)


def read(data: bytes) -> list[Any]:
    """The messages of a batch, as aiokafka reads them."""
    (one,) = iter_batches(data)
    assert one.validate_crc()
    return [(record.offset, record.timestamp, record.key, record.value, record.headers) for record in one]


def iter_batches(data: bytes) -> list[Any]:
    records, found = MemoryRecords(data), []
    while records.has_next():
        found.append(records.next_batch())
    return found


# Odd records

_texts = st.one_of(st.sampled_from(["", "post-1", "Zürich", "a b/c?d#e%f", 'quo"te', "é🙂"]), st.text(max_size=9))
_types = st.one_of(st.sampled_from(["easyTravel visit", "", "T ä"]), _texts)
_times = st.sampled_from(["2026-01-31T12:00:00.000Z", "2026-01-31T12:00:00Z", "", "12026-01-31T12:00:00.000Z"])


def _body(id: str, kind: str, provider: str, name: str, time: str, order: str, more: str) -> bytes:
    """A record with the fields in `order`, each given by its letter."""
    fields = {
        "k": ("event.kind", "BIZ_EVENT"),
        "i": ("event.id", id),
        "y": ("event.type", kind),
        "p": ("event.provider", provider),
        "n": ("event.name", name),
        "t": ("timestamp", time),
        "m": ("more", more),
    }
    chosen = {fields[letter][0]: fields[letter][1] for letter in order}
    return json.dumps(chosen, ensure_ascii=False, separators=(",", ":")).encode()


_orders = st.one_of(st.sampled_from(["kiypntm", "kiypnt", "kiytm", "kitypnm", "miypnt", ""]), st.permutations("kiypntm"))
_records = st.tuples(_texts, _types, _texts, _texts, _times, _orders.map("".join), st.text(max_size=300))
_rows = st.lists(st.tuples(_records, st.booleans(), _texts, st.integers(-(2**45), 2**45)), min_size=1, max_size=12)


def _batch(rows: list[Any], cuts: list[int], joined: int) -> Batch:
    """The rows as a batch, with parts that end at `cuts` and columns joined of two. Some ids are not their record's."""
    bodies = [_body(*record) for record, _, _, _ in rows]
    ids = [record[0] if same else key for record, same, key, _ in rows]
    keys, times = [row[2] for row in rows], [row[3] for row in rows]
    sizes = [len(body) + 1 for body in bodies]
    whole = b"".join([body + b"\n" for body in bodies])
    ends = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    parts = [part for start, end in pairwise(ends) for part in slice_parts([whole], start, end - start)]

    def cut(column: list[Any]) -> Joined[Any]:
        return Joined([column[:joined], column[joined:]])

    return Batch(cut(ids), cut(keys), cut(times), [TRANSACTION] * len(rows), cut(sizes), parts)


@given(
    rows=_rows,
    cuts=st.lists(st.integers(0, 2**20), max_size=4),
    joined=st.integers(0, 12),
    key=st.sampled_from(["visit", "name", "id"]),
    with_headers=st.booleans(),
    batch_size=st.one_of(st.integers(1, 3_000), st.just(LARGE)),
    event_time=st.booleans(),
    values=st.one_of(st.none(), st.lists(st.binary(max_size=200), min_size=12, max_size=12)),
)
def test_the_bytes_are_those_of_aiokafka(
    rows: list[Any],
    cuts: list[int],
    joined: int,
    key: str,
    with_headers: bool,
    batch_size: int,
    event_time: bool,
    values: Any,
) -> None:
    """For records of all layouts in any number of parts, with every kind of key, header, value and timestamp."""
    batch = _batch(rows, cuts, joined)
    note(batch.ndjson)
    like = form(key=key, headers=with_headers, batch_size=batch_size)
    given_values = None if values is None else values[: len(rows)]
    equal(like, batch, given_values, batch.timestamps if event_time else (1_700_000_000_000,))


@pytest.mark.parametrize("batch_size", [1, 500, 2_000, 2**14, LARGE])
def test_mapped_records(batch_size: int) -> None:
    """Records from the native mapper, of several posts, sliced and joined, some of them twice."""
    whole = Batch.concat([mapped(150, 1), mapped(90, 2).slice(20, 70), mapped(150, 1)])
    for key in ("visit", "name", "id"):
        assert (equal(form(key=key, batch_size=batch_size), whole, None, whole.timestamps) > 1) == (batch_size < LARGE)


def test_huge_records() -> None:
    """A record larger than a batch is sent alone, and so are its neighbors if they don't fit beside it."""
    bodies = [b'{"n":%d}' % number for number in range(5)]
    bodies[2] = b'{"x":"%s"}' % (b"x" * 300_000)
    assert equal(form(batch_size=100_000), batch_of(bodies)) == 3
    assert equal(form(batch_size=300_600), batch_of(bodies)) == 2


def test_long_names_are_not_remembered() -> None:
    """Names may be as long as a post: ten thousand of them would fill the memory."""
    record = ("post-1", "T", "p" * MAX_CACHED_SIZE, "N", "2026-01-31T12:00:00.000Z", "kiypntm", "")
    like = form()
    equal(like, _batch([(record, True, "key", 1)] * 3, [], 2))
    like.envelopes.headers("post-1", _body(*record))
    assert like.envelopes._cache == {}
    like.envelopes.headers("post-1", _body(*record[:2], "p", *record[3:]))
    assert len(like.envelopes._cache) == 1


def test_batches_of_a_transaction_say_so() -> None:
    """Brokers would deliver others at once."""
    for codec in ("none", "zstd"):
        batch = mapped(30)
        like = form(transactional=True, compression=codec)
        (made,) = batches(both(like, batch)[0], like, len(batch))
        (found,) = iter_batches(bytes(made._build()))
        assert found.is_transactional
        assert len(read(bytes(made._build()))) == len(batch)
    assert equal(form(transactional=True), mapped(30)) == 1


@pytest.mark.parametrize("codec", CODECS)
def test_compressed_batches_say_the_same(codec: str) -> None:
    """As read by aiokafka. Records that compression would only lengthen are sent uncompressed."""
    many, one = mapped(200), batch_of([b"{}"])
    like = form(compression=codec)
    for batch in (many, one):
        found, expected = (batches(messages, like, len(batch)) for messages in both(like, batch, None, batch.timestamps))
        data = [bytes(one._build()) for one in (*found, *expected)]
        assert len(data) == 2
        assert read(data[0]) == read(data[1])
        heads = [one for each in data for one in iter_batches(each)]
        assert {(head.producer_id, head.producer_epoch, head.base_sequence) for head in heads} == {PRODUCER}
        if batch is many:
            assert {head.compression_type for head in heads} == {CODECS.index(codec)}
    no_headers = form(compression=codec, headers=False)
    (tiny,) = batches(both(no_headers, one)[0], no_headers, 1)
    assert iter_batches(tiny._build())[0].compression_type == 0


def test_other_threads_run_while_batches_are_built() -> None:
    """Native code releases the interpreter's lock; see test_others_run_while_a_large_post_is_worked_on."""
    messages, _ = both(form(compression="zstd", batch_size=2**30), mapped(20_000))
    (indexes,) = messages.by_partition([("t", 20_000)], {"t": 1}, {}).values()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1_000)
    try:
        assert any(overtakes(lambda: messages.next_batch(indexes, lambda: None)) for _ in range(50))
    finally:
        sys.setswitchinterval(interval)


# Partitions


@given(
    rows=_rows, partitions=st.integers(1, 7), without=st.sets(st.integers(0, 11)), key=st.sampled_from(["visit", "name"])
)
def test_both_paths_choose_the_same_partitions(rows: list[Any], partitions: int, without: set[int], key: str) -> None:
    """For two topics in turn, keys of all lengths, and with records left out."""
    batch = _batch(rows, [], 0)
    runs = [(f"t{number % 2}", 1) for number in range(len(rows))]
    left_out = dict.fromkeys(without & set(range(len(rows))), "no")
    found, expected = (one.by_partition(runs, {"t0": partitions, "t1": 3}, left_out) for one in both(form(key=key), batch))
    assert {place: [*indexes] for place, indexes in found.items()} == {place: [*one] for place, one in expected.items()}


@given(key=st.binary(max_size=70), partitions=st.integers(1, 1000))
def test_both_paths_choose_the_same_partition_of_a_key(key: bytes, partitions: int) -> None:
    """Whatever the key's length."""
    assert partition_of(key, partitions) == partition_of_plain(key, partitions)


def test_runs_are_of_the_same_object() -> None:
    """Both paths compare business transactions by identity."""
    one, other = TRANSACTION, mapped(1).transactions[0]
    for transactions in ([one, one, other, one], [other] * 3, []):
        found = [*_kafka_messages.transaction_runs(transactions)]
        with patch.object(_kafka_messages, "native", None):
            assert [*_kafka_messages.transaction_runs(transactions)] == found
        assert [each for each, count in found for _ in range(count)] == transactions


# Columns


def test_all_kinds_of_columns_are_packed_alike() -> None:
    """Columns of the native mapper, slices, joined columns and plain lists."""
    batch = mapped(40)
    for column in (batch.ids, batch.ids[3:9], Joined([batch.ids, batch.keys[2:4]]), [*batch.ids], ["", "Zürich"], []):
        assert pack_strings(column) == pack_strings([*column])
    texts, lengths = pack_strings(["", "Zürich"])
    assert (texts, [*memoryview(lengths).cast("q")]) == ("Zürich".encode(), [0, 7])
    for times in (batch.timestamps, batch.timestamps[5:9], Joined([batch.sizes, [1, -(2**63)]]), []):
        assert [*memoryview(pack_integers(times)).cast("q")] == [*times]


@pytest.mark.parametrize("sizes", [[3], [9], [2, 1], [-1, 5], [0, 4], [2**62, 2**62]])
def test_inconsistent_columns_are_rejected(sizes: list[int]) -> None:
    """Native code reads nothing outside of its buffers."""
    odd = Batch(
        ["a"] * len(sizes), ["b"] * len(sizes), [0] * len(sizes), [TRANSACTION] * len(sizes), sizes, [memoryview(b"{}x\n")]
    )
    with pytest.raises(ValueError, match="lengths"):
        MessageBuilder(form()).build(odd, None, [0])
    batch = batch_of([b"{}", b"{}"])
    with pytest.raises(ValueError, match="equal length"):
        MessageBuilder(form()).build(batch, [b"one"], [0])


# aiokafka


def test_a_finished_batch_has_the_interface_that_aiokafka_uses() -> None:
    """It has every method that aiokafka's accumulator calls on a complete batch."""
    asked = set(re.findall(r"\b_?builder\.(\w+)\(", inspect.getsource(message_accumulator.MessageBatch)))
    asked |= set(re.findall(r"\bbuilder\.(\w+)\(", inspect.getsource(message_accumulator.MessageAccumulator)))
    assert {"_build", "_set_producer_state", "record_count", "closed"} <= asked
    assert asked - {"append"} <= set(dir(FinishedBatch))  # it appends what is sent by single messages alone
    for name in asked - {"append"}:
        theirs, ours = (inspect.signature(getattr(kind, name)).parameters for kind in (BatchBuilder, FinishedBatch))
        assert [*theirs] == [*ours]


def test_a_finished_batch_is_sent_again_as_it_was() -> None:
    """It is closed once it is built, and its bytes don't change."""
    batch = batch_of([b"{}"] * 3)
    (made,) = batches(MessageBuilder(form()).build(batch, None, [0]), form(), 3)
    assert (made.closed(), made.record_count()) == (False, 3)
    made.close()
    sent = made._build()
    assert made.closed()
    made._set_producer_state(1, 1, 1)
    assert made._build() is sent


# Which path runs


@pytest.mark.parametrize("found", [None, SimpleNamespace(INTERFACE=INTERFACE + 1)])
def test_the_plain_path_runs_without_a_usable_module(found: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the module was not built, or for another interface, or if the environment says so."""
    assert native is _messages
    monkeypatch.setitem(sys.modules, "sinks._messages", found)  # None: it can't be imported
    monkeypatch.delattr(sinks, "_messages")
    if found is not None:
        monkeypatch.setattr(sinks, "_messages", found, raising=False)
    monkeypatch.setattr("sinks.shared.optional.unusable", {})
    assert optional("sinks._messages", INTERFACE) is None
    monkeypatch.undo()
    monkeypatch.setenv("BTFEED_PLAIN", "1")
    assert optional("sinks._messages", INTERFACE) is None


def test_the_plain_path_takes_over_after_a_panic() -> None:
    """A panic in native code fails one call."""
    batch = mapped(30)
    found, expected = both(form(), batch)
    runs = [("t", 30)]
    with pytest.raises(RuntimeError, match="panic"):
        found._native.by_partition([(0, 30)], [0], [])  # type: ignore[attr-defined]  # modulo zero
    with pytest.raises(RuntimeError, match="panic"):
        found._native.batch(memoryview(bytes(3 * [255] + [0])), LARGE, True, False)  # type: ignore[attr-defined]

    class Broken:
        def by_partition(self, *_: object) -> None:
            raise RuntimeError("a panic")

        batch = by_partition

    found._native = Broken()  # type: ignore[attr-defined]
    assert found.by_partition(runs, {"t": 4}, {}) == expected.by_partition(runs, {"t": 4}, {})
    made = batches(found, form(), 30)
    assert isinstance(made[0], BatchBuilder)
    assert [bytes(one._build()) for one in made] == [bytes(one._build()) for one in batches(expected, form(), 30)]


async def test_both_paths_send_the_same_messages(kafka: Kafka) -> None:
    """The same messages in the same partitions, in the same order."""
    batch, topics = mapped(300), [kafka.make_topic(new_topic(), 3) for _ in range(2)]
    for topic, module in zip(topics, (_messages, None), strict=True):
        with patch.object(_kafka_messages, "native", module):
            async with opened(kafka_sink(kafka.bootstrap, {"topic": topic, "batch_size": "16KiB"})) as sink:
                assert await sink.write(batch) == WriteResult([])
    found, expected = (
        [(one.partition(), one.key(), one.value(), headers(one)) for one in read_topic(kafka, topic)] for topic in topics
    )
    assert found == expected
    assert len(found) == 300
