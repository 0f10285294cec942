"""The native mapper gives the same result as the plain one. `make test-native` tries many more bodies (twins.py)."""

import random
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from btfeed import _native
from btfeed.posts import files as postfile
from btfeed.posts.admission import LONG, Limits
from btfeed.posts.bt_pb2 import BtOccurrence
from btfeed.traffic import profile
from btfeed.traffic.generate import GenerateOptions, generate
from tests.records import twins
from tests.records.twins import POLICIES, RECORDS, Twins, agree_to_admit
from tests.support import posts, strategies, wire
from tests.support.strategies import examples

EXAMPLES = Path(__file__).parents[2] / "examples" / "posts"
each_configuration = pytest.mark.parametrize(
    "configuration", [(name, *policies) for name in RECORDS for policies in POLICIES], ids="-".join
)
LIMITED: dict[tuple[str, str, str], Twins] = {}


def twins_of(configuration: tuple[str, str, str]) -> Twins:
    """Both mappers of a configuration. They are kept and used again, as in a running server."""
    name, missing, unexpected = configuration
    if configuration not in LIMITED:
        LIMITED[configuration] = Twins(RECORDS[name], missing, unexpected)
    return LIMITED[configuration]


# Any bytes


@each_configuration
@given(body=st.one_of(strategies.bodies, strategies.mutated))
@settings(max_examples=examples(40))
def test_both_make_the_same_of_posts(configuration: tuple[str, str, str], body: bytes) -> None:
    """Records, columns, dead letters and counts, under every configuration. Also for mutated posts."""
    twins_of(configuration).agree(body)


@given(body=strategies.almost_posts, limit=st.sampled_from([1, 2, 3, 1000]))
@settings(max_examples=examples(600))
@example(wire.field(1, wire.NAME + wire.OCCURRENCE * 2, tag_length=5, length_length=5), 2)
@example(wire.transaction(wire.NAME + wire.field(6, wire.field(6, b"1234567") + wire.START_TIME)), 2)
def test_both_make_the_same_of_any_bytes(body: bytes, limit: int) -> None:
    """Both accept the same bodies, with the same count and digest, and map them to the same records."""
    agree_to_admit(body, limit)
    twins_of(("plain", "report", "report")).agree(body)


@pytest.mark.slow
def test_the_long_form_does_what_it_says() -> None:
    """It tries that many bodies, and many of them are posts."""
    twins.run(2_000, number=20)


# Posts as they come


@cache
def recorded() -> list[bytes]:
    """Every post in the repository, and generated ones of each built-in profile."""
    found = [body for path in sorted(EXAMPLES.iterdir()) for body in postfile.read(path)]
    for name in profile.shipped():
        found += [one.body for one in generate(GenerateOptions(profile.load(name), visits=300))]
    return found + [sample() for sample in posts.SAMPLES.values()] + [posts.mixed(1000, seed) for seed in range(3)]


@each_configuration
def test_both_make_the_same_of_recorded_posts(configuration: tuple[str, str, str], quick: bool) -> None:
    """Examples, samples, and generated posts."""
    both = twins_of(configuration)
    before = both.maps
    bodies = recorded()[:: 5 if quick else 1]
    for body in bodies:
        both.agree(body)
        assert agree_to_admit(body, 100_000)
    assert both.maps - before == len(bodies) > 20


# The wire, to its last bit


def bits() -> list[bytes]:
    """Fields of an occurrence, encoded as no serializer does."""
    varints = [
        wire.varint(value, length) for value in (0, 1, 2, 2**31, 2**32 + 5, 2**63, 2**64 - 1) for length in (0, 9, 10, 11)
    ]
    varints += [b"\xff" * 9 + b"\x7f", b"\x80" * 10]
    found = [wire.varint(number << 3) + varint for number in (2, 11, 14, 22, 23, 25, 36, 60) for varint in varints]
    found += [wire.field(6, b"x" * length) for length in (0, 7, 8, 12, 16)]
    found += [wire.field(number, b"x", tag_length=length) for number in (7, 8, 36, 60) for length in range(1, 7)]
    found += [wire.field(number, b"x", length_length=length) for number in (7, 8, 36, 60) for length in range(1, 7)]
    found += [wire.varint(number << 3 | kind, 2) + b"\1\0\0\0\0\0\0\0" for number in range(48) for kind in range(8)]
    found += [wire.varint(tag) + b"\1" for tag in (2**32 - 8, 2**32, 2**35)]
    found += [wire.field(60, b"")[:-1] + wire.varint(length) for length in (1, 2**31 - 1, 2**31, 2**32, 2**35)]
    return found


def deep(depth: int, inside: bytes = b"") -> bytes:
    for _ in range(depth):
        inside = wire.group(5, inside)
    return inside


@pytest.mark.parametrize("place", range(3))
def test_both_read_the_wire_alike(place: int) -> None:
    """Overlong varints, tags and lengths; wrong wire types; enums; groups nested as deep as protobuf allows."""
    both = twins_of(("plain", "report", "report"))
    contents = bits() + [
        deep(depth, inside) for depth in range(96, 103) for inside in (b"", b"\x00\x01", b"\x02\x00", b"\x0e")
    ]
    contents += [b"\x10" + wire.varint(kind) for kind in (0, 2, 3, 7, 2**32 + 1, 2**64 - 1)]
    taken = 0
    for content in contents:
        inner = wire.field(6, wire.START_TIME + (content if place == 2 else b""))
        body = wire.transaction(wire.NAME + inner + (content if place == 1 else b"")) + (content if place == 0 else b"")
        both.agree(body)
        taken += agree_to_admit(body, 1000)
    assert len(contents) // 4 < taken < len(contents)


# Values


@given(value=st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=examples(2_000))
@example(1e16)
@example(9999999999999998.0)
@example(1e-5)
@example(1e-6)
@example(123456789012345680.0)
@example(5e-324)
@example(-0.0)
def test_numbers_are_written_alike(value: float) -> None:
    """The shortest text that reads back the same. It has an exponent from 1e16 on, and below 1e-5."""
    assert _native.number(value).encode() == msgspec.json.encode(value)
    assert float(_native.number(value)) == value


def test_numbers_of_any_bits_are_written_alike() -> None:
    """100,000 random numbers."""
    rng = random.Random(7)
    for _ in range(100_000):
        value = float.fromhex(f"0x1.{rng.getrandbits(52):013x}p{rng.randrange(-1022, 1024)}")
        assert _native.number(value).encode() == msgspec.json.encode(value)


def test_whole_numbers_are_written_alike() -> None:
    """Around every power of 2 and of 10 up to where all doubles are whole, with both signs."""
    powers = {2**exponent for exponent in range(66)} | {10**exponent for exponent in range(20)}
    for value in {float(sign * (power + near)) for power in powers for near in range(-3, 4) for sign in (1, -1)}:
        assert _native.number(value).encode() == msgspec.json.encode(value)


_hex = st.text("0123456789abcdefABCDEF", max_size=5)
_parts: dict[str, Any] = {"4": st.lists(st.integers(0, 300).map(str), min_size=3, max_size=5).map(".".join)}
_parts["6"] = st.lists(st.one_of(_hex, st.just("")), min_size=1, max_size=10).map(":".join)
_parts["both"] = st.builds(lambda six, four: f"{six}{four}", _parts["6"], _parts["4"])
addresses = st.one_of(
    st.ip_addresses().map(str),
    *_parts.values(),
    st.builds("{}%{}".format, st.ip_addresses(v=6), _hex),
    st.text("0123456789abcf:.%", max_size=20),
)


@given(given_addresses=st.lists(addresses, min_size=1, max_size=20))
@settings(max_examples=examples(500))
@example(["::", "1::", "::ffff:1.2.3.4", "0:0:1::", "1:0:0:2::", "01.2.3.4", "1.2.3.4%x", "1:2:3:4:5:6:7::", "::%"])
def test_addresses_are_masked_alike(given_addresses: list[str]) -> None:
    """Also text that is almost an address, which is left out and counted."""
    occurrences = [BtOccurrence(startTime=0, clientIP=address) for address in given_addresses]
    transaction = wire.field(1, wire.NAME + b"".join(wire.field(6, one.SerializeToString()) for one in occurrences))
    twins_of(("attributes", "report", "report")).agree(transaction)
    twins_of(("private", "report", "report")).agree(transaction)


@given(texts=st.lists(st.one_of(st.text(), st.binary(max_size=40)), max_size=10))
@settings(max_examples=examples(500))
@example([b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x90\x80", b"\xc0\x80", b"\xe2\x28\xa1", "\ud7ff\ue000"])
def test_text_is_repaired_and_escaped_alike(texts: list[str | bytes]) -> None:
    """Invalid UTF-8 becomes as many U+FFFD as in the plain path."""
    fields = b"".join(wire.field(7, text.encode() if isinstance(text, str) else text) for text in texts)
    twins_of(("plain", "report", "report")).agree(wire.transaction(wire.NAME + wire.field(6, wire.START_TIME + fields)))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 20, 2_000])
def test_both_have_the_same_limits(limit: int) -> None:
    """At, below and above each limit."""
    name, many = wire.NAME, Limits.of(limit).elements
    one = wire.OCCURRENCE
    for number in (-1, 0, 1):
        agree_to_admit(wire.transaction(name + one * (limit + number)), limit)
        agree_to_admit(wire.transaction(name) * (limit + number), limit)
        for filler in (wire.field(4, b""), wire.group(3, b"") + wire.field(9, b""), b"\x40\x00"):
            agree_to_admit(wire.transaction(name + filler * (many // len(filler) + number)), limit)
            agree_to_admit(wire.transaction(name + filler * (many + number - 1)), limit)
        for inside in (b"\x3a\x00", b"\xa2\x02\x00", b"\x3a\x01x", b"\x31" + b"x" * 8, wire.group(3, b"")):
            padding = wire.field(9, b"x" * LONG)
            for times in (many + number - 3, (many - 3) // 2 + number):
                agree_to_admit(wire.transaction(name + wire.field(6, wire.START_TIME + padding + inside * times)), limit)
        packed = wire.field(6, b"12345678" * (many - 3 + number))
        agree_to_admit(wire.transaction(name + wire.field(6, wire.START_TIME + packed)), limit)
        long = wire.field(3, b"x" * (Limits.of(limit).shared_bytes // limit - 6 + number))
        agree_to_admit(wire.transaction(name + long + one * limit), limit)
