"""`describe` and `lines`: posts as people read them."""

import json
import math
from typing import Any

import pytest

from btfeed.posts.post import Malformed, digest, event_id_prefix
from btfeed.records import describe as inspect
from tests.records.mapping import START, occurrence, transaction
from tests.support import posts, wire


def described(body: bytes) -> dict[str, Any]:
    """The description as JSON. Makes sure that it can be shown as text too."""
    found = inspect.describe(body)
    assert list(inspect.lines(found))
    again: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    return again


def test_a_post_is_described_in_full() -> None:
    """Names as in the feed, all fields that are present, and violations."""
    body = wire.post(
        transaction(
            occurrence(values=[1.5, 2.0], dimensions=["d"], failed=False, duration=14.5, visitId=2**40),
            measures=["m"], dimensions=["x"], type=0, application="app", systemProfile="profile",
        ),
        serverName="server", lostTransactions=3,
    )  # fmt: skip
    fields = {"startTime": START, "values": [1.5, 2.0], "dimensions": ["d"], "visitId": 2**40, "duration": 14.5}
    assert described(body) == {
        "bytes": len(body),
        "event_id_prefix": event_id_prefix(digest(body)),
        "server": "server",
        "lost_transactions": 3,
        "transactions": [
            {
                "name": "bt", "category": "purepath", "application": "app", "systemProfile": "profile",
                "measures": ["m"], "dimensions": ["x"],
                "occurrences": [
                    {
                        "ordinal": 0,
                        "fields": fields | {"failed": False},
                        "violations": [{"field": "visitId", "rule": "unexpected"}],
                    }
                ],
            }
        ],
    }  # fmt: skip


def test_a_post_reads_as_lines() -> None:
    """Values after their names, times also as dates, violations marked with `!`."""
    body = wire.post(
        transaction(occurrence(values=[1.5, 2.0], dimensions=["a, b"], endTime=START), measures=["m"], application="app"),
        serverName="server", lostTransactions=3,
    )  # fmt: skip
    prefix = event_id_prefix(digest(body))
    assert list(inspect.lines(inspect.describe(body))) == [
        f"{len(body)} bytes, event.id {prefix}N, server server, 3 transactions lost",
        "  unknown 'bt', application app",
        "    #0",
        "      startTime = 1358330757840 (2013-01-16T10:05:57.840Z)",
        "      endTime = 1358330757840 (2013-01-16T10:05:57.840Z)",
        "      values = m: 1.5, 2.0",
        "      dimensions = 'a, b'",
        "      ! missing type",
    ]


@pytest.mark.parametrize("sample", [*(sample() for sample in posts.SAMPLES.values()), posts.mixed(20), b""])
def test_ordinals_are_those_of_event_ids(sample: bytes) -> None:
    """They count through the post."""
    transactions = described(sample)["transactions"]
    ordinals = [one["ordinal"] for found in transactions for one in found["occurrences"]]
    assert ordinals == list(range(len(ordinals)))


def test_missing_required_fields_are_shown() -> None:
    """They are listed; the rest of the post is shown as usual."""
    found = described(wire.transaction(wire.OCCURRENCE + b"\x32\x00"))
    assert found["missing_required_fields"] == [
        "businessTransactions[0].name",
        "businessTransactions[0].occurrences[1].startTime",
    ]
    assert "  ! required field missing: businessTransactions[0].name" in inspect.lines(found)


def test_odd_values_can_be_shown() -> None:
    """Numbers that JSON does not have, times outside the calendar, text that is not UTF-8."""
    fields = {"duration": math.nan, "values": [math.inf, -math.inf], "endTime": 2**62}
    content = wire.field(1, b"n\xff") + wire.field(4, b"\xff") + wire.field(3, b"\xfe")
    content += wire.field(6, occurrence(**fields).SerializeToString() + wire.field(7, b"\xff") + wire.field(36, b"\xff"))
    found = described(wire.transaction(content) + wire.field(3, b"s\xff"))
    (bt,) = found["transactions"]
    (one,) = bt["occurrences"]
    assert (found["server"], bt["name"], bt["application"], bt["measures"]) == ("s\ufffd", "n\ufffd", "\ufffd", ["\ufffd"])
    assert (one["fields"]["duration"], one["fields"]["values"]) == ("NaN", ["Infinity", "-Infinity"])
    assert (one["fields"]["dimensions"], one["fields"]["convertedBy"]) == (["\ufffd"], ["\ufffd"])
    assert f"      endTime = {2**62} is outside the years 1 to 9999" in inspect.lines(found)


def test_no_text_of_a_post_moves_the_cursor() -> None:
    """Names may contain anything, including control sequences of terminals."""
    evil = "a\x1b[2J\nb"
    fields = {"application": evil, "systemProfile": evil, "name": evil, "measures": [evil], "dimensions": [evil]}
    body = wire.post(
        transaction(occurrence(values=[1.0], dimensions=[evil], url=evil, convertedBy=[evil]), **fields), serverName=evil
    )
    assert all(line.isprintable() for line in inspect.lines(inspect.describe(body)))


def test_bytes_that_are_not_protobuf_are_malformed() -> None:
    """Nothing can be shown."""
    with pytest.raises(Malformed):
        inspect.describe(b"\x0a\x05")
