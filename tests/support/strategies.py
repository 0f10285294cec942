"""Hypothesis strategies for posts: sensible ones, odd ones, and bytes that are almost posts."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction, BusinessTransactions
from tests.support import posts, wire
from tests.support.fieldtable import ROWS

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For all properties: no deadline, because the machine may be busy."""


def examples(number: int) -> int:
    """This many under Hypothesis' default profile; under another profile, in the same proportion to its own number."""
    return max(1, number * settings().max_examples // settings.get_profile("default").max_examples)


START = posts.START
_INT64 = st.integers(-(2**63), 2**63 - 1)
_times = st.one_of(st.integers(START, START + 10**9), st.integers(-62135596800001, 253402300800001), _INT64)
_doubles = st.one_of(st.sampled_from([0.0, -0.0, 1.0, 14.5, 0.0078125]), st.floats(), st.floats(-1e13, 1e13))
_SCRIPTS = ["Größe(€)", "GRO\u0308SSE", "売上", "قیمت", "ราคา", "वज़न", "ΟΔΟΣ", "İ", "H\u0331", "٤٢", "\u1112\u1161", "❤️"]
_texts = st.one_of(
    st.sampled_from(["", "a", "A", "a_2", "Page (URL)", "2", "é", "x:null,", *_SCRIPTS]), st.text(max_size=8)
)
_values: dict[str, st.SearchStrategy[Any]] = {
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": _INT64,
    "double": _doubles,
    "bool": st.booleans(),
    "string": _texts,
}


def _field(name: str, kind: str, repeated: bool) -> st.SearchStrategy[Any]:
    value = _times if name == "endTime" else _values[kind]
    return st.lists(value, max_size=4) if repeated else value


_optional = {row.field: _field(row.field, row.kind, row.repeated) for row in ROWS if row.field != "startTime"}
_names = st.lists(_texts, max_size=4)


def _sparse(fields: dict[str, st.SearchStrategy[Any]], most: int) -> st.SearchStrategy[dict[str, Any]]:
    """Values of up to `most` of the fields."""
    some = st.lists(st.sampled_from(sorted(fields)), max_size=most, unique=True)
    return some.flatmap(lambda names: st.fixed_dictionaries({name: fields[name] for name in names}))


_occurrences = st.builds(
    lambda start, listed, fields: BtOccurrence(startTime=start, **listed | fields),
    _times,
    st.fixed_dictionaries({name: _optional[name] for name in ("values", "dimensions")}),
    st.one_of(_sparse(_optional, 8), st.fixed_dictionaries(_optional)),
)
_transactions = st.builds(
    lambda name, fields, occurrences: BusinessTransaction(name=name, occurrences=occurrences, **fields),
    _texts,
    st.fixed_dictionaries(
        {"measureNames": _names, "dimensionNames": _names},
        optional={"type": st.integers(0, 2), "application": _texts, "systemProfile": _texts},
    ),
    st.lists(_occurrences, max_size=3),
)
messages = st.builds(
    lambda transactions, fields: BusinessTransactions(businessTransactions=transactions, **fields),
    st.lists(_transactions, max_size=3),
    st.fixed_dictionaries({}, optional={"serverName": _texts, "lostTransactions": _values["int32"]}),
)
"""BusinessTransactions messages with their required fields."""

bodies = messages.map(lambda message: message.SerializeToString())


def _edit(body: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for place, removed, added in edits:
        place %= len(body) + 1
        body = body[:place] + added + body[place + removed :]
    return body


mutated = st.builds(
    _edit,
    st.one_of(bodies, st.sampled_from([posts.mixed(3), *(sample() for sample in posts.SAMPLES.values())])),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4),
)
"""Posts with a few bytes removed, inserted or changed."""

_numbers = st.one_of(st.sampled_from([1, 6]), st.integers(0, 8), st.integers(0, 2**29))
_lengths = st.one_of(st.just(0), st.integers(1, 6))  # of tags and lengths: as short as can be, or padded


def _nested(content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    def delimited(number: int, inside: bytes, tag: int, length: int) -> bytes:
        return wire.field(number, inside, tag_length=tag, length_length=length)

    scalar = st.builds(
        lambda number, kind_and_value, tag: wire.varint(number << 3 | kind_and_value[0], tag) + kind_and_value[1],
        _numbers,
        st.one_of(
            st.tuples(st.just(0), st.builds(wire.varint, st.integers(0, 2**65), st.integers(0, 11))),
            st.tuples(st.just(1), st.binary(min_size=8, max_size=8)),
            st.tuples(st.just(5), st.binary(min_size=4, max_size=4)),
            st.tuples(st.integers(3, 7), st.just(b"")),
        ),
        _lengths,
    )
    one = st.one_of(
        st.builds(delimited, _numbers, content, _lengths, _lengths), scalar, st.builds(wire.group, _numbers, content)
    )
    return st.lists(one, max_size=4).map(b"".join)


_BT = wire.NAME + wire.OCCURRENCE
_leaves = st.sampled_from([b"", wire.NAME, wire.START_TIME, wire.OCCURRENCE, b"\x07", _BT, wire.transaction(_BT)])
wires = st.recursive(_leaves, _nested, max_leaves=12)
"""Fields, groups and nested messages, partly like a post, in every encoding that protobuf accepts."""

almost_posts = st.one_of(mutated, wires, st.binary(max_size=200))
"""Bytes that may be a post or not."""
