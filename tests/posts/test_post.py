"""Admission: is it a post, and within the limits?"""

import subprocess
import sys
from hashlib import blake2b

import pytest

from btfeed.posts import admission
from btfeed.posts.admission import TooManyOccurrences, admit
from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction
from btfeed.posts.post import Malformed, digest, digests, event_id_prefix, parse
from tests.support import posts, wire
from tests.support.wire import NAME, OCCURRENCE, START_TIME, field, group, transaction

LIMIT = 2_000
"""Occurrences; high enough that MIN_ELEMENTS does not apply."""
ELEMENTS = LIMIT * admission.ELEMENTS_PER_OCCURRENCE


def elements(content: bytes, limit: int = LIMIT) -> int:
    """Admits a transaction with a name, which is one of its elements."""
    return admit(transaction(NAME + content), limit)


# What is a post


@pytest.mark.parametrize("sample", posts.SAMPLES.values())
def test_the_samples_are_posts(sample: object) -> None:
    """With one occurrence each."""
    assert callable(sample)
    assert admit(sample(), 1) == 1


def test_occurrences_of_all_transactions_are_counted() -> None:
    """The metrics get this number."""
    assert admit(posts.mixed(100), 100) == 100
    assert admit(b"", 1) == 0
    assert admit(transaction(NAME), 1) == 0


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (b"", "businessTransactions[0].name"),
        (OCCURRENCE, "businessTransactions[0].name"),
        (b"\x08\x01", "businessTransactions[0].name"),
        (field(3, b"n"), "businessTransactions[0].name"),
        (NAME + b"\x32\x00", "businessTransactions[0].occurrences[0].startTime"),
        (NAME + OCCURRENCE * 3 + b"\x32\x00", "businessTransactions[0].occurrences[3].startTime"),
        (NAME + field(6, b"\x10\x01"), "businessTransactions[0].occurrences[0].startTime"),
        (NAME + field(6, b"\x0d1234"), "businessTransactions[0].occurrences[0].startTime"),
        (NAME + field(6, group(20, START_TIME)), "businessTransactions[0].occurrences[0].startTime"),
    ],
)
def test_required_fields_are_required(content: bytes, path: str) -> None:
    """protobuf parses all of these, although name or startTime is missing or has another wire type."""
    for before in (b"", transaction(NAME + OCCURRENCE)):
        place = path.replace("[0]", "[1]", 1) if before else path
        with pytest.raises(Malformed) as refused:
            admit(before + transaction(content), 100)
        assert str(refused.value).endswith(f"required field {place} is missing")


@pytest.mark.parametrize(
    "body",
    [
        transaction(NAME + field(6, b"\x10\x01" + START_TIME)),
        transaction(OCCURRENCE + NAME),
        transaction(NAME + field(6, b"\x88\x00\x00")),
        transaction(NAME + field(6, START_TIME + START_TIME)),
        transaction(NAME + NAME + OCCURRENCE),
    ],
)
def test_fields_may_come_in_any_order_and_more_than_once(body: bytes) -> None:
    """protobuf allows it, although no known serializer does it."""
    assert admit(body, 1) <= 1
    assert parse(body).IsInitialized()


@pytest.mark.parametrize(
    ("before", "inside", "deep"),
    [
        (b"\x20\x01", b"\x40\x01", b"\x18\x01"),
        (b"\x21" + b"x" * 8, b"\x41" + b"x" * 8, b"\x19" + b"x" * 8),
        (b"\x25" + b"x" * 4, b"\x45" + b"x" * 4, b"\x1d" + b"x" * 4),
        (field(9, b"\x32\x00"), field(9, b"\xff"), field(99, b"")),
        (group(4, b""), group(9, group(10, b"\x08\x01")), group(3, field(1, b"x"))),
    ],
)
def test_unknown_fields_of_newer_servers_are_welcome(before: bytes, inside: bytes, deep: bytes) -> None:
    """Of every wire type and in every message."""
    body = before + transaction(inside + NAME + inside + field(6, deep + START_TIME + deep) + OCCURRENCE) + before
    assert admit(body, 2) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"no protobuf",
        b"\x0a",
        b"\x0a\x05",
        b"\x0f",
        b"\x0c",
        b"\x0b",
        b"\x00\x00",
        b"\x10" + b"\x80" * 10 + b"\x00",
        b"\x0a" + b"\xff" * 9 + b"\x01",
        b"\x1b\x24",
        b"{}",
        b"<html>",
    ],
)
def test_bytes_that_are_not_protobuf_are_malformed(body: bytes) -> None:
    """The reason, which the answer contains, says what was expected."""
    with pytest.raises(Malformed, match=r"^not a BusinessTransactions message: "):
        admit(body, 100)


@pytest.mark.parametrize("sample", [posts.sample_visit(), posts.mixed(7)])
def test_a_cut_post_is_malformed(sample: bytes) -> None:
    """Wherever it is cut, except where the rest is a complete post or empty."""
    whole = {0, len(sample)}
    for end in range(len(sample) + 1):
        try:
            admit(sample[:end], 100)
        except Malformed:
            continue
        whole.discard(end)
        assert parse(sample[:end]).IsInitialized()
    assert not whole


# Limits


@pytest.mark.parametrize("place", range(4))
def test_occurrences_are_limited(place: int) -> None:
    """Exactly the limit is accepted; one more in any transaction is not."""
    filled = [transaction(NAME + OCCURRENCE * 5)] * 4
    assert admit(b"".join(filled), 20) == 20
    filled[place] = transaction(NAME + OCCURRENCE * 6)
    with pytest.raises(TooManyOccurrences, match="more than 20 occurrences in one post"):
        admit(b"".join(filled), 20)


@pytest.mark.parametrize("hidden", [OCCURRENCE, b"\x32\x00", b"\xb2\x00\x00", b"\x32\x80\x00", b"\xb2\x80\x80\x00\x00"])
def test_occurrences_are_counted_however_they_are_written(hidden: bytes) -> None:
    """Also empty ones, and those with overlong tags and lengths: protobuf accepts them all."""
    with pytest.raises(TooManyOccurrences, match="occurrences"):
        admit(transaction(NAME + hidden * 21), 20)


@pytest.mark.parametrize(
    "before", [group(3, field(1, b"\x07")), group(3, field(1, NAME + OCCURRENCE)), group(3, group(4, b"\x0a\x01\x07"))]
)
def test_what_is_in_a_group_is_not_counted_and_hides_nothing(before: bytes) -> None:
    """protobuf sees one unknown field."""
    assert admit(before + transaction(before + NAME + OCCURRENCE * 20), 20) == 20
    for body in (before + transaction(NAME + OCCURRENCE * 21), transaction(NAME + before + OCCURRENCE * 21)):
        with pytest.raises(TooManyOccurrences, match="occurrences"):
            admit(body, 20)


@pytest.mark.parametrize("one", [transaction(NAME), field(1, NAME, tag_length=3, length_length=5)])
def test_transactions_are_limited(one: bytes) -> None:
    """To the same number as occurrences: empty transactions cost as much."""
    assert admit(one * 20, 20) == 0
    with pytest.raises(TooManyOccurrences, match="more than 20 business transactions"):
        admit(one * 21, 20)


@pytest.mark.parametrize("one", [field(4, b""), field(5, b"name"), b"\x40\x00", field(9, b""), b"\xa2\x00\x00"])
def test_names_are_limited(one: bytes) -> None:
    """To ten for each occurrence that is allowed. Other fields of a transaction count too."""
    assert elements(one * (ELEMENTS - 1)) == 0
    with pytest.raises(TooManyOccurrences, match=f"more than {ELEMENTS} names"):
        elements(one * ELEMENTS)


@pytest.mark.parametrize("one", [b"\x3a\x00", b"\xa2\x02\x00"])
def test_empty_dimensions_are_limited(one: bytes) -> None:
    """They have two bytes on the wire and many more in memory. Those of short occurrences are added up."""
    each = field(6, START_TIME + one * (ELEMENTS // 1000))
    filler = field(9, b"x" * 2 * ELEMENTS)
    assert elements(each * 1000 + filler) == 1000
    with pytest.raises(TooManyOccurrences, match=f"more than {ELEMENTS} empty dimensions"):
        elements(each * 1000 + field(6, START_TIME + one) + filler)


@pytest.mark.parametrize("one", [b"\x3a\x01x", b"\x31" + b"x" * 8, b"\x18\x00", group(3, b"")])
def test_what_is_in_a_long_occurrence_is_limited(one: bytes) -> None:
    """Each value becomes a field of the record. Groups count with all fields in them."""
    number = (ELEMENTS - 3) // (2 if one == group(3, b"") else 1)
    padding = field(9, b"x" * admission.LONG)
    assert elements(field(6, START_TIME + padding + one * number)) == 1
    with pytest.raises(TooManyOccurrences, match=f"more than {ELEMENTS} names, values"):
        elements(field(6, START_TIME + padding + one * (number + 1)))


def test_packed_values_are_limited() -> None:
    """Each value in them counts."""
    assert elements(field(6, START_TIME + field(6, b"12345678" * (ELEMENTS - 3)))) == 1
    with pytest.raises(TooManyOccurrences, match="values"):
        elements(field(6, START_TIME + field(6, b"12345678" * ELEMENTS)))


@pytest.mark.parametrize("number", [1, 3, 4, 5, 7])
def test_what_records_repeat_is_limited(number: int) -> None:
    """A long name is in each record: it is accepted with 100 occurrences, but not with 2,000."""
    long = field(number, b"x" * (admission.MIN_SHARED // 1000))
    assert elements(long + OCCURRENCE * 100) == 100
    assert admit(transaction(NAME + long) + transaction(NAME + OCCURRENCE * LIMIT), LIMIT) == LIMIT
    with pytest.raises(TooManyOccurrences, match="records would repeat more than"):
        elements(long + OCCURRENCE * LIMIT)


def test_the_servers_name_is_repeated_by_all_transactions() -> None:
    """Wherever in the post it is."""
    server = field(3, b"x" * (admission.MIN_SHARED // 1000))
    half = transaction(NAME + OCCURRENCE * (LIMIT // 2))
    assert admit(server + transaction(NAME + OCCURRENCE * 100), LIMIT) == 100
    for body in (server + half + half, half + half + server):
        with pytest.raises(TooManyOccurrences, match="records would repeat more than"):
            admit(body, LIMIT)


def test_a_small_limit_of_occurrences_allows_many_names() -> None:
    """Posts are not rejected for their number of fields."""
    wide = BusinessTransaction(name="n", measureNames=[f"measure {n}" for n in range(1000)])
    wide.occurrences.append(BtOccurrence(startTime=0, values=[0.5] * 1000))
    assert admit(wire.post(wide), 1) == 1


# Memory

BOMBS = {
    "empty occurrences": "bomb(SIZE, b'\\x32\\x00')",
    "occurrences with overlong tags": "bomb(SIZE, b'\\xb2\\x00\\x00')",
    "occurrences behind a group": "group(3, field(1, b'\\x07')) + bomb(SIZE, b'\\x32\\x00')",
    "empty transactions": "b'\\x0a\\x00' * (SIZE // 2)",
    "empty names": "bomb(SIZE, b'\\x22\\x00')",
    "empty dimensions": "transaction(NAME + field(6, START_TIME + b'\\x3a\\x00' * (SIZE // 2 - 20)))",
    "short dimensions": "bomb(SIZE, field(6, START_TIME + b'\\x3a\\x01x' * 20_000))",
    "unknown fields": "transaction(NAME + field(6, START_TIME + b'\\x18\\x00' * (SIZE // 2 - 20)))",
    "unknown fields between known ones": "bomb(SIZE, field(6, b'\\x08\\x00\\x18\\x00' * 16_000))",
}
SCRIPT = """
from btfeed.posts.admission import admit
from btfeed.posts.post import PostRefused
from tests.support.harness import peak_memory
from tests.support.wire import *
SIZE = 16 * 2**20
body = {body}
try:
    admit(body, 100_000)
except PostRefused:
    pass
assert SIZE - 70_000 < len(body) <= SIZE + 20, len(body)
print(peak_memory("self") // 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_a_bomb_takes_little_memory(body: str) -> None:
    """16 MiB that would become gigabytes if they were parsed."""
    script = SCRIPT.format(body=body)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 450


# Names of a post


def test_a_digest_is_blake2b_256() -> None:
    """The known digest of b"abc". Several digests at once are the same as one by one."""
    assert digest(b"abc").hex() == "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"
    for number in range(20):
        bodies = [bytes([place]) * (place * 37 % 500) for place in range(number)]
        assert digests(bodies) == [blake2b(body, digest_size=32).digest() for body in bodies]


def test_an_event_id_starts_with_24_digits_of_it() -> None:
    """Then comes a hyphen; the ordinal follows."""
    assert event_id_prefix(digest(b"abc")) == "bddd813c634239723171ef3f-"
