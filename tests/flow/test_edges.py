"""What docs/flow.md says of bounds and of several values, by hand."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from btfeed.flow.definition import Definition, parse
from btfeed.flow.options import ReportOptions
from btfeed.flow.report import Report
from tests.flow.random_flows import BEGIN, line, moment
from tests.flow.test_engine import engine

HOUR, DAY = 3_600_000, 86_400_000


def definition(**keys: Any) -> Definition:
    steps = [{"name": "A", "event": "A"}, {"name": "B", "event": "B"}]
    return parse({"name": "Shop", "correlation": "visit", "steps": steps, **keys})


def record(kind: str, time: int, **more: Any) -> dict[str, Any]:
    return {"event.type": kind, "event.id": f"{kind}{time}", "visit": "1", "timestamp": moment(time), **more}


def report(of: Definition, rows: list[dict[str, Any]], **options: Any) -> Report:
    with engine(of, [line(row, number) for number, row in enumerate(rows)]) as running:
        return running.report(ReportOptions(**options))


def test_a_flow_as_old_as_lost_after_is_lost() -> None:
    """A millisecond before, it is open. A goal just at the end of the window counts."""
    rows = [record("A", BEGIN)]
    states = [report(definition(lost_after="1h"), rows, as_of=BEGIN + HOUR - each).figures.counts for each in (0, 1)]
    assert [(counts.lost, counts.open) for counts in states] == [(1, 0), (0, 1)]
    found = [report(definition(window="1h"), [*rows, record("B", BEGIN + HOUR + each)]).figures.counts for each in (0, 1)]
    assert [(counts.converted, counts.late) for counts in found] == [(1, 0), (0, 1)]


def test_the_first_value_of_a_dimension_counts() -> None:
    """In time, not in the file; also that of the record that says that the flow is over."""
    of = definition(dimensions={"segment": "segment", "city": "city"}, ends={"event.type": "visit"})
    rows = [
        record("B", BEGIN + 2 * HOUR, segment="gold"),
        record("A", BEGIN),
        record("visit", BEGIN + 3 * HOUR, segment="new", city="Graz"),
        record("A", BEGIN + HOUR, segment="basic"),
    ]
    (part,) = report(of, rows, split=(("segment", "city"),)).splits["segment,city"]
    assert part.values == ("basic", "Graz")


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_a_week_begins_on_monday(zone: str) -> None:
    """At midnight of the time zone."""
    rows = [record("A", BEGIN + each * DAY, visit=f"{each}") for each in range(20)]
    buckets = report(definition(timezone=zone, bucket="7d"), rows).series.rows
    assert len(buckets) > 2
    for bucket in buckets:
        begins = datetime.fromtimestamp(bucket.begin / 1000, UTC).astimezone(ZoneInfo(zone))
        assert f"{begins:%A %H:%M}" == "Monday 00:00"


def test_a_unit_is_a_label() -> None:
    """Amounts are summed, whatever their currency."""
    of = definition(value={"field": "amount", "unit": "EUR"})
    rows = [record("A", BEGIN, amount=1, currency="EUR"), record("B", BEGIN + 1, amount=2, currency="USD")]
    value = report(of, rows).figures.value
    assert value
    assert (value.won, value.unit) == (3.0, "EUR")
