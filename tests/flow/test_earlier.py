"""The period that a report is compared with, where the clocks are changed: in Vienna in the night to 2026-03-29."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from btfeed.flow.definition import parse
from btfeed.flow.engine import Engine
from btfeed.flow.options import ReportOptions
from tests.flow.random_flows import BEGIN, line, moment
from tests.flow.test_engine import engine

HOUR, DAY = 3_600_000, 86_400_000


def at(local: str, zone: str = "Europe/Vienna") -> int:
    return round(datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@pytest.fixture(scope="module", params=["Europe/Vienna", "UTC"])
def shop(request: pytest.FixtureRequest) -> Iterator[tuple[str, Engine]]:
    """The zone of a definition, and its engine: a flow begins in each hour of 20 days around the change."""
    steps = [{"name": "A", "event": "A"}, {"name": "B", "event": "B"}]
    definition = parse({"name": "Shop", "correlation": "visit", "timezone": request.param, "steps": steps})
    rows = [
        {"event.type": "A", "event.id": f"{hour}", "visit": f"{hour}", "timestamp": moment(BEGIN + hour * HOUR)}
        for hour in range(-10 * 24, 10 * 24)
    ]
    with engine(definition, [line(row, number) for number, row in enumerate(rows)]) as running:
        yield request.param, running


@pytest.mark.slow
def test_whole_local_days_are_compared_with_whole_local_days(shop: tuple[str, Engine]) -> None:
    """Whatever their length: the day of the change has 23 hours. In another zone these are no whole days, so the same
    number of hours is compared."""
    zone, running = shop
    cases: tuple[tuple[str, str, Any, str, int, int], ...] = (
        ("2026-03-29", "2026-03-30", "previous", "2026-03-28", 23, 24),
        ("2026-03-30", "2026-03-31", "previous", "2026-03-29", 24, 23),
        ("2026-03-29", "2026-03-30", "week", "2026-03-22", 23, 24),
        ("2026-03-29", "2026-03-30", None, "2026-03-22", 23, 24),
        ("2026-03-30", "2026-03-31", DAY, "2026-03-29", 24, 23),
        ("2026-03-28", "2026-03-30", "previous", "2026-03-26", 47, 48),
    )
    for begin, end, how, then, started, started_then in cases:
        report = running.report(ReportOptions(begin=at(begin), end=at(end), compare=how))
        compare = report.compare
        assert compare
        assert report.figures.counts.started == started
        hours = started_then if zone != "UTC" else 24 if how == DAY else started
        assert compare.figures.counts.started == hours
        if zone != "UTC":
            assert (compare.period.begin, compare.shift) == (at(then), at(begin) - at(then))
            assert compare.period.end == at(end) - (at(begin) - at(then)) + (started_then - started) * HOUR
        else:
            assert at(begin) - compare.shift == compare.period.begin
            assert compare.shift % HOUR == 0


def test_today_so_far_is_compared_with_the_same_time_of_a_day_before(shop: tuple[str, Engine]) -> None:
    """By the local clock, also as it stood then. Hours that are no whole days are moved by their number."""
    zone, running = shop
    noon = at("2026-03-30T12:00")
    found = running.report(ReportOptions(begin=at("2026-03-30"), as_of=noon, compare="week")).compare
    assert found
    wanted = (at("2026-03-23"), at("2026-03-23T12:00"))
    assert (found.period.begin, found.as_of) == (wanted if zone != "UTC" else (at("2026-03-30") - 7 * DAY, noon - 7 * DAY))
    for begin, end in (("2026-03-30T01:00", "2026-03-31"), ("2026-03-30", "2026-03-31T02:00")):
        found = running.report(ReportOptions(begin=at(begin), end=at(end), compare="week")).compare
        assert found
        assert (found.period.begin, found.shift) == (at(begin) - 7 * DAY, 7 * DAY)
