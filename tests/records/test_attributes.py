"""Which constants may be added to records: names and values that every sink takes."""

import math
import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btfeed import config
from btfeed.faults import ConfigError
from btfeed.records.schema import MAPS, RECORD_FIELDS
from tests.records.mapping import single

FIELDS = [field.name for field in RECORD_FIELDS]
PREFIXES = [prefix.name for prefix in MAPS]
LARGEST_FLOAT = 3.4028234663852886e38


def attributes(table: Any) -> dict[str, Any]:
    """What the configuration makes of the table."""
    return config.parse({"record": {"attributes": table}}, {}).record.attributes


def faults(table: Any) -> dict[str, str]:
    """The name of each attribute that is refused -> why."""
    with pytest.raises(ConfigError) as caught:
        attributes(table)
    return dict(fault.removeprefix("record.attributes.").split(": ", 1) for fault in caught.value.faults)


@pytest.mark.parametrize("name", ["environment", "dt.entity.host", "appmon.release", "clients", "event.types", "größe 売上",
                                  "a b", "a._id", "a.@b", "x" * 100, ".".join("abcdefghijklmnopqrst")])  # fmt: skip
def test_an_ordinary_name_is_taken(name: str) -> None:
    """Also one that resembles a field's, or is as long and as deep as a name may be."""
    assert attributes({name: "x"}) == {name: "x"}


@pytest.mark.parametrize("value", ["", "x" * 100_000, True, 0, 2**63 - 1, -(2**63), 0.5, LARGEST_FLOAT, -LARGEST_FLOAT])
def test_an_ordinary_value_is_taken(value: object) -> None:
    """Text, a boolean or a number, as it is."""
    assert attributes({"a": value}) == {"a": value}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "an attribute needs a name"),
        (" ", "invalid name: between, before and after dots"),
        (".", "invalid name: between, before and after dots"),
        ("a..b", "invalid name: between, before and after dots"),
        (".a", "invalid name: between, before and after dots"),
        ("a.", "invalid name: between, before and after dots"),
        ("a. .b", "invalid name: between, before and after dots"),
        ("@timestamp", "invalid name: Elasticsearch keeps names that begin with _ or @"),
        ("_id", "invalid name: Elasticsearch keeps names that begin with _ or @"),
        ("_source.x", "invalid name: Elasticsearch keeps names that begin with _ or @"),
        ("x" * 101, "the name is too long: shorten it to at most 100 bytes"),
        ("ä" * 51, "the name is too long: shorten it to at most 100 bytes"),
        (".".join("abcdefghijklmnopqrstu"), "the name has too many dots: use at most 19"),
        ("client", "can't have a value, because records have fields below it, such as client.ip: choose another"),
        ("appmon", "can't have a value, because records have fields below it, such as appmon."),
        ("appmon.measure", "can't have a value, because records have fields below it, such as appmon.measure.NAME"),
        ("event.type.x", "lies below event.type, a field of records that has a value: choose another name"),
        ("timestamp.a.b", "lies below timestamp, a field of records that has a value: choose another name"),
        ("appmon.measure.revenue", "is a name that users of AppMon may choose: choose another one"),
        ("appmon.dimension.a.b", "is a name that users of AppMon may choose: choose another one"),
    ],
)  # fmt: skip
def test_a_name_that_a_sink_rejects_is_refused(name: str, fault: str) -> None:
    """With the name as its path, and what to do. Otherwise every record would become a dead letter."""
    found = faults({name: "x", "environment": "test"})
    assert list(found) == [name]
    assert found[name].startswith(fault)


@pytest.mark.parametrize("name", FIELDS)
def test_no_attribute_overrides_a_field(name: str) -> None:
    """Of the post, the business transaction or the occurrence."""
    assert faults({name: "x"})[name].startswith("is a field of records, which an attribute can't override: choose another")


@given(st.text("ab.", max_size=6), st.sampled_from([*FIELDS, *PREFIXES]))
def test_no_attribute_is_a_value_and_an_object_at_once(more: str, field: str) -> None:
    """No name that is taken is a field, the beginning of one up to a dot, or below one."""
    name = (field + more)[: len(field) + len(more) - 3]
    try:
        taken = attributes({name: 1})
    except ConfigError:
        return
    assert list(taken) == [name]
    parts = name.split(".")
    for other in [*FIELDS, *PREFIXES]:
        others = other.rstrip(".").split(".")
        common = min(len(parts), len(others))
        assert parts[:common] != others[:common]


def test_an_attribute_below_another_is_refused() -> None:
    """Whichever comes first. Neighbors are no clash."""
    table = {"zone.rack.unit": 1, "zone": 2, "zone.rack": 3, "zones": 4, "zo": 5}
    assert faults(table) == {
        "zone.rack.unit": "lies below the attribute zone, which has a value: rename one of the two",
        "zone.rack": "lies below the attribute zone, which has a value: rename one of the two",
    }


def test_a_name_that_is_set_twice_is_refused() -> None:
    """As a quoted key with dots, and as nested tables."""
    table = tomllib.loads('"a.b" = 1\n[a]\nb = 1')
    assert faults(table) == {"a.b": "is set twice, as a quoted key with dots and as nested tables: remove one"}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (2**63, "the integer does not fit in 64 bits: write it as text"),
        (-(2**63) - 1, "the integer does not fit in 64 bits: write it as text"),
        (math.nan, "the number must be finite and at most 3.4e38, in either direction: write it as text"),
        (-math.inf, "the number must be finite and at most 3.4e38, in either direction: write it as text"),
        (math.nextafter(LARGEST_FLOAT, math.inf), "the number must be finite and at most 3.4e38, in either direction: "),
        (-1e300, "the number must be finite and at most 3.4e38, in either direction: write it as text"),
        ([1], "must be text, a boolean or a number"),
        (datetime(2026, 1, 1, tzinfo=UTC), "must be text, a boolean or a number"),
        (None, "must be text, a boolean or a number"),
    ],
)
def test_a_value_that_a_sink_rejects_is_refused(value: object, fault: str) -> None:
    """Elasticsearch indexes unknown integers with 64 bits, other numbers with 32. The message does not show the value."""
    assert faults({"a": {"b": value}})["a.b"].startswith(fault)


def test_every_fault_is_reported_at_once() -> None:
    """Each with its own path. Characters that would change the terminal are escaped."""
    found = faults({"": 1, "_id": 1, "client": 1, "n": [], "tab\there": 1, "{odd}.": 1, "fine": 1})
    assert list(found) == ["", "_id", "client", "n", "'tab\\there'", "{odd}."]
    assert found["'tab\\there'"] == "invalid name: remove its control characters"


def test_attributes_must_be_a_table() -> None:
    """A text is not one."""
    with pytest.raises(ConfigError, match=r"^record.attributes: must be a table: write names and constants under"):
        attributes("a")


def test_attributes_are_in_the_record_once() -> None:
    """Beside the fields of the feed, which keep their values."""
    names = {"environment": "test", "appmon.release": 7}
    without, record = single(), single(settings={"attributes": names})
    assert record == without | names
