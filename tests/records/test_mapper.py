"""The fields of records, by default settings. tests/records/test_settings.py has the other settings."""

import math
from typing import Any

import pytest

from btfeed.posts.bt_pb2 import BtOccurrence
from btfeed.posts.post import Malformed, digest, event_id_prefix
from tests.records.mapping import START, mapped, occurrence, parsed, raw, records, single, transaction
from tests.support import posts, wire
from tests.support.fieldtable import CATEGORIES, ROWS, Row

PUREPATH, USER_ACTION, VISIT = range(3)

SAMPLE_PUREPATH = """{
  "event.kind": "BIZ_EVENT", "event.id": "6a3829de8ac7a367aef70c96-0", "event.type": "btName",
  "event.provider": "btApplication", "event.category": "purepath", "event.name": "btName",
  "appmon.application": "btApplication", "timestamp": "2013-01-16T10:05:57.840Z",
  "appmon.purepath.id": "PT=288;PA=-508867027;PS=-522660323", "appmon.visit.id": "1234",
  "appmon.response_time_ms": 12.5, "appmon.cpu_time_ms": 3.25, "appmon.sync_time_ms": 0.5, "appmon.wait_time_ms": 0.25,
  "appmon.suspension_time_ms": 0.0, "appmon.exec_time_ms": 10.0, "duration": 14500000, "event.outcome": "success",
  "appmon.measure.measurekey": 1.0, "appmon.dimension.splittingkey": "splitting"}"""
SAMPLE_USER_ACTION = """{
  "event.kind": "BIZ_EVENT", "event.id": "04583ab64f03661117933701-0", "event.type": "btName",
  "event.provider": "btApplication", "event.category": "user_action", "event.name": "btName",
  "appmon.application": "btApplication", "timestamp": "2013-01-16T10:05:57.840Z",
  "appmon.purepath.id": "PT=288;PA=-508867027;PS=-522660323", "appmon.action.name": "click on btn",
  "url.full": "http://localhost/orange.jsf?a=b", "appmon.visit.id": "8589934592", "appmon.response_time_ms": 12.5,
  "appmon.cpu_time_ms": 3.25, "appmon.sync_time_ms": 0.5, "appmon.wait_time_ms": 0.25, "appmon.suspension_time_ms": 0.0,
  "appmon.exec_time_ms": 10.0, "duration": 14500000, "event.outcome": "failure", "appmon.client_error_count": 2,
  "appmon.client_time_ms": 100.0, "appmon.network_time_ms": 50.0, "appmon.server_time_ms": 25.0,
  "appmon.navigation.redirect_ms": 1, "appmon.navigation.dns_ms": 2, "appmon.navigation.connect_ms": 3,
  "appmon.navigation.ssl_ms": 4, "appmon.navigation.request_ms": 5, "appmon.navigation.response_ms": 6,
  "appmon.navigation.processing_ms": 7,
  "appmon.measure.measurekey": 1.0, "appmon.dimension.splittingkey": "splitting"}"""
SAMPLE_VISIT = """{
  "event.kind": "BIZ_EVENT", "event.id": "b07f079d766296d80f203fae-0", "event.type": "btName",
  "event.provider": "btApplication", "event.category": "visit", "event.name": "btName",
  "appmon.application": "btApplication", "timestamp": "2013-01-16T10:05:57.840Z", "end_time": "2013-01-16T10:07:12.472Z",
  "duration": 74632000000, "appmon.visit.id": "8589934592", "user.name": "btUser", "appmon.visit.apdex": 0.75,
  "appmon.visit.converted": true, "appmon.visit.action_count": 5, "browser.name": "Firefox", "client.ip": "1.2.3.4",
  "geo.continent.name": "Europe", "geo.country.name": "Austria", "geo.city.name": "Linz",
  "appmon.visit.failed_action_count": 1, "appmon.client_error_count": 2, "appmon.visit.exit_action_failed": false,
  "appmon.visit.bounce": false, "os.family": "Windows", "os.name": "Windows 7",
  "appmon.connection_type": "Broadband (>1500 kb/s)", "appmon.visit.converted_by": ["conv", "by"],
  "appmon.measure.measurekey": 1.0, "appmon.dimension.splittingkey": "splitting"}"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (posts.sample_purepath(), SAMPLE_PUREPATH),
        (posts.sample_user_action(), SAMPLE_USER_ACTION),
        (posts.sample_visit(), SAMPLE_VISIT),
    ],
    ids=CATEGORIES,
)
def test_the_samples_become_these_records(body: bytes, expected: str) -> None:
    """In full. Values have the right JSON type, integers and floats distinguished."""
    (record,) = records(body)
    wanted = parsed(expected.replace("\n", " ").encode())
    assert record == wanted
    assert {name: type(value) for name, value in record.items()} == {name: type(value) for name, value in wanted.items()}


# Every field

FILLED: dict[str, tuple[Any, Any]] = {
    "int32": (7, 7),
    "int64": (START + 1, "2013-01-16T10:05:57.841Z"),
    "double": (2.5, 2.5),
    "bool": (True, True),
    "string": ('é "\\\n', 'é "\\\n'),
}
SPECIAL: dict[str, tuple[Any, Any]] = {
    "values": ([2.5], 2.5),
    "dimensions": (["d"], "d"),
    "visitId": (2**62, "4611686018427387904"),
    "duration": (2.5, 2500000),
    "failed": (True, "failure"),
    "convertedBy": (["a", ""], ["a", ""]),
    "startTime": (START + 1, "2013-01-16T10:05:57.841Z"),
}
EMPTY: dict[str, tuple[Any, Any]] = {
    "int32": (0, 0),
    "int64": (0, "1970-01-01T00:00:00.000Z"),
    "double": (0.0, 0.0),
    "bool": (False, False),
    "string": ("", ""),
}
SPECIAL_EMPTY: dict[str, tuple[Any, Any]] = {
    "values": ([0.0], 0.0),
    "dimensions": ([""], ""),
    "visitId": (0, "0"),
    "duration": (0.0, 0),
    "failed": (False, "success"),
    "convertedBy": ([""], [""]),
}


@pytest.mark.parametrize(("special", "plain"), [(SPECIAL, FILLED), (SPECIAL_EMPTY, EMPTY)], ids=["filled", "empty"])
@pytest.mark.parametrize("kind", [None, PUREPATH, USER_ACTION, VISIT])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.field)
def test_a_field_alone_arrives_alone(row: Row, kind: int | None, special: dict[str, Any], plain: dict[str, Any]) -> None:
    """In every type, expected there or not; also zero, false and the empty string. Absent fields stay absent."""
    bt = {} if kind is None else {"type": kind}
    value, expected = special.get(row.field, plain[row.kind])
    name = row.record_field.replace("<name>", "1")
    without, record = single(bt=bt), single(bt=bt, **{row.field: value})
    for one in (without, record):
        del one["event.id"]
    extra = {"duration": (value - START) * 10**6} if row.field == "endTime" and kind == VISIT else {}
    assert record == without | {name: expected} | extra
    assert type(record[name]) is type(expected)
    assert row.field == "startTime" or name not in without


def test_all_fields_arrive_together() -> None:
    """All 44, and the fields that every record has."""
    given = {row.field: SPECIAL.get(row.field, FILLED[row.kind]) for row in ROWS}
    record = single(bt={"type": VISIT}, **{name: value for name, (value, _) in given.items()})
    for row in ROWS:
        assert record.pop(row.record_field.replace("<name>", "1")) == given[row.field][1], row.field
    assert set(record) == {f"event.{name}" for name in ("kind", "id", "type", "provider", "category", "name")}


def test_text_arrives_as_it_was_sent() -> None:
    """Line breaks are escaped, so that a record is one line; `=` and non-ASCII are not."""
    value = 'PT=1;PA=-2 <a&b> "q" \\ é€😀 \u2028 \r\n\t\x00'
    body = wire.post(transaction(occurrence(dimensions=[value], purePathId=value)))
    result = mapped(body)
    assert parsed(result.batch.body(0))["appmon.dimension.1"] == value
    assert b"PT=1;PA=-2 <a&b>" in result.batch.body(0)
    assert "é€😀".encode() in result.batch.body(0)
    assert bytes(result.batch.ndjson).count(b"\n") == 1


# Values that JSON or a calendar can't hold


@pytest.mark.parametrize(
    ("milliseconds", "nanoseconds"),
    [
        (1.5, 1500000),
        (0.0000004, 0),
        (0.0000005, 0),
        (0.0000015, 2),
        (0.0000025, 2),
        (-0.0000005, 0),
        (-0.0000015, -2),
        (-3.0, -3000000),
        (-0.0, 0),
        (0.0078125, 7812),
        (0.0234375, 23438),
        (9007199.25, 9007199250000),
        (-9223372036854.775808, -(2**63)),
        (9223372036854.775808, None),
        (-9223372036856.0, None),
        (1e300, None),
        (1.7e308, None),
        (math.inf, None),
        (-math.inf, None),
        (math.nan, None),
    ],
)
def test_duration_is_whole_nanoseconds(milliseconds: float, nanoseconds: int | None) -> None:
    """Rounded half to even. A duration that does not fit in 64 bits is left out and counted."""
    result = mapped(wire.post(transaction(occurrence(duration=milliseconds))))
    record = parsed(result.batch.body(0))
    assert record.get("duration") == nanoseconds
    assert ("duration" in record) == (nanoseconds is not None)
    assert result.counts.left_out == ({"duration": 1} if nanoseconds is None else {})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_left_out(value: float) -> None:
    """They are counted, and the rest of the record is delivered."""
    fields = {"duration": value, "responseTime": value, "cpuTime": 1.5, "values": [value, 2.5], "url": "x:null,"}
    result = mapped(wire.post(transaction(occurrence(**fields), measures=["a", "b"])))
    record = parsed(result.batch.body(0))
    assert {"duration", "appmon.response_time_ms", "appmon.measure.a"}.isdisjoint(record)
    assert (record["appmon.cpu_time_ms"], record["appmon.measure.b"], record["url.full"]) == (1.5, 2.5, "x:null,")
    assert result.counts.left_out == {"duration": 1, "appmon.response_time_ms": 1, "appmon.measure.a": 1}


def test_large_numbers_are_not_taken_for_infinite() -> None:
    """Even if their sum is infinite."""
    record = single(values=[1.7e308, 1.7e308, 5e-324, -0.0], responseTime=1.7e308)
    assert [record[f"appmon.measure.{place}"] for place in (1, 2, 3, 4)] == [1.7e308, 1.7e308, 5e-324, -0.0]
    assert record["appmon.response_time_ms"] == 1.7e308


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (951782400000, "2000-02-29T00:00:00.000Z"),
        (-62135596800000, "0001-01-01T00:00:00.000Z"),
        (253402300799999, "9999-12-31T23:59:59.999Z"),
        (-62135596800001, None),
        (253402300800000, None),
        (2**63 - 1, None),
        (-(2**63), None),
    ],
)
def test_times_are_rfc_3339(milliseconds: int, text: str | None) -> None:
    """An endTime outside the years 1 to 9999 is left out and counted; a startTime makes the occurrence a dead letter."""
    end = mapped(wire.post(transaction(occurrence(endTime=milliseconds))))
    assert parsed(end.batch.body(0)).get("end_time") == text
    assert end.counts.left_out == ({} if text else {"end_time": 1})
    start = mapped(wire.post(transaction(occurrence(startTime=milliseconds))))
    assert [parsed(body)["timestamp"] for body in start.batch.bodies] == ([text] if text else [])
    assert [refused.timestamp for refused in start.refused] == ([] if text else [milliseconds])


def test_a_start_time_outside_the_calendar_does_not_harm_neighbors() -> None:
    """Neighbors are delivered and keep their ordinals. The dead letter has the reason and the record."""
    bad = occurrence(startTime=2**62, url="u", visitId=9)
    body = wire.post(transaction(occurrence(), bad, occurrence(visitId=5)))
    result = mapped(body)
    prefix = event_id_prefix(digest(body))
    assert result.batch.ids == [f"{prefix}0", f"{prefix}2"]
    assert len(result.batch.bodies) == len(result.batch.transactions) == 2
    (refused,) = result.refused
    assert (refused.ordinal, refused.id, refused.key, refused.timestamp) == (1, f"{prefix}1", "9", 2**62)
    assert refused.reason == f"startTime {2**62} is outside the years 1 to 9999"
    record = parsed(refused.body)
    assert (record["event.id"], record["timestamp"], record["url.full"]) == (f"{prefix}1", 2**62, "u")


@pytest.mark.parametrize(
    ("end", "nanoseconds"),
    [(START, 0), (START + 1, 1000000), (START - 1, -1000000), (START + 8 * 3600 * 1000, 28800000000000), (2**62, None)],
)
def test_a_visit_lasts_from_its_start_to_its_end(end: int, nanoseconds: int | None) -> None:
    """The feed has no duration for visits. Other types have a duration only if it was sent."""
    assert single(bt={"type": VISIT}, endTime=end).get("duration") == nanoseconds
    assert "duration" not in single(bt={"type": VISIT})
    assert "duration" not in single(bt={"type": PUREPATH}, endTime=end)
    assert "duration" not in single(endTime=end)


def test_a_duration_that_a_visit_does_have_is_delivered() -> None:
    """As any unexpected field."""
    assert single(bt={"type": VISIT}, endTime=START + 1, duration=5.0)["duration"] == 5000000


# What only bytes can say


def test_packed_values_are_read() -> None:
    """Newer serializers may write them. Both forms may be mixed."""
    one, two = BtOccurrence(startTime=0, values=[1.0]), BtOccurrence(startTime=0, values=[2.0])
    doubles = one.SerializeToString()[-8:] + two.SerializeToString()[-8:]
    body = raw(wire.field(6, doubles) + one.SerializeToString()[-9:], measures=["a", "b"])
    (record,) = records(body)
    measures = {name: value for name, value in record.items() if name.startswith("appmon.measure.")}
    assert measures == {"appmon.measure.a": 1.0, "appmon.measure.b": 2.0, "appmon.measure.3": 1.0}


def test_text_that_is_not_utf_8_is_repaired_and_counted() -> None:
    """Each invalid byte becomes U+FFFD, in every text; each text counts once."""
    names = b"\x0a\x02n\xff" + b"\x1a\x01\xfe" + b"\x3a\x01\xfe" + b"\x22\x03m\xffm" + b"\x2a\x02\xffd"
    fields = b"\x3a\x02\xffv" + b"\x2a\x01\xff" + b"\x31" + b"\0" * 8 + wire.field(36, b"c\xff") + wire.field(36, b"c")
    body = wire.transaction(names + wire.field(6, b"\x08\x01" + fields) * 2) + b"\x1a\x02s\xff"
    result = mapped(body)
    record = parsed(result.batch.body(1))
    assert (record["event.name"], record["event.type"], record["event.provider"]) == ("n\ufffd", "n\ufffd", "\ufffd")
    assert (record["appmon.application"], record["appmon.system_profile"]) == ("\ufffd", "\ufffd")
    assert (record["appmon.server"], record["appmon.purepath.id"]) == ("s\ufffd", "\ufffd")
    assert (record["appmon.measure.m_m"], record["appmon.dimension.d"]) == (0.0, "\ufffdv")
    assert record["appmon.visit.converted_by"] == ["c\ufffd", "c"]
    assert result.counts.invalid_utf8 == 1 + 5 + 2 * 3


def test_an_occurrence_without_a_start_time_makes_the_post_malformed() -> None:
    """The receiver rejects such posts, but an old journal may hold some."""
    for content in (b"", b"\x2a\x01x"):
        with pytest.raises(Malformed, match="an occurrence has no startTime"):
            mapped(wire.transaction(wire.NAME + wire.OCCURRENCE + wire.field(6, content)))


def test_bytes_that_are_not_a_post_are_malformed() -> None:
    """With the message that the receiver gives."""
    with pytest.raises(Malformed, match="not a BusinessTransactions message"):
        mapped(b"\x0a\x05")
