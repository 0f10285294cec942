"""Which buckets of a series are unfinished: the same in every form of a report."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from btfeed.flow import tables
from btfeed.flow.as_json import as_json
from btfeed.flow.definition import parse
from btfeed.flow.engine import Engine
from btfeed.flow.options import ReportOptions
from btfeed.flow.page import render
from btfeed.flow.schema import schema
from tests.flow.random_flows import BEGIN, line, moment
from tests.flow.test_engine import engine

HOUR = 3_600_000
FIRST, LAST = BEGIN + 90, BEGIN + 10 * HOUR - 90
"""Times of the oldest and the newest record: within the first and the last of ten hours."""
WAITING = 4
"""The hour whose flow is still open."""


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    """A flow in each of ten hours, which converts within a minute, but for one; the last record is near the end."""
    steps = [{"name": name, "event": name} for name in "AB"]
    definition = parse({"name": "F", "correlation": "visit", "bucket": "1h", "steps": steps})
    rows: list[dict[str, Any]] = []
    for hour in range(10):
        time = BEGIN + hour * HOUR + 90
        rows += [{"event.type": "A", "visit": str(hour), "timestamp": moment(time)}]
        if hour != WAITING:
            rows += [{"event.type": "B", "visit": str(hour), "timestamp": moment(time + 60_000)}]
    rows += [{"event.type": "B", "visit": "9", "timestamp": moment(LAST)}]
    with engine(definition, [line(row, number) for number, row in enumerate(rows)]) as made:
        yield made


@pytest.mark.parametrize(
    ("options", "unfinished"),
    [
        ({}, {0, WAITING, 9}),
        ({"as_of": BEGIN + 10 * HOUR - 1}, {0, WAITING}),
        ({"begin": BEGIN + HOUR, "end": BEGIN + 9 * HOUR}, {4 - 1}),
        ({"begin": BEGIN + HOUR + 1, "end": BEGIN + 9 * HOUR - 1}, {0, 4 - 1, 7}),
        ({"begin": BEGIN - HOUR, "end": BEGIN + 20 * HOUR}, {0, 1, WAITING + 1, 10}),
        ({"by": "decided"}, {0, 9}),
        ({"mature": True, "as_of": BEGIN + 9 * HOUR + 59_000}, {0, WAITING, 8}),
    ],
)
def test_a_bucket_is_unfinished(options: dict[str, Any], unfinished: set[int], running: Engine, tmp_path: Path) -> None:
    """If it is not wholly in the period and between the oldest record and as_of, or has open flows. JSON and CSV say so,
    and the page hatches it."""
    made = running.report(ReportOptions(compare="none", **options))
    rows = made.series.rows
    assert {place for place, row in enumerate(rows) if row.unfinished} == unfinished
    assert [row["unfinished"] for row in as_json(made)["series"]["rows"]] == [row.unfinished for row in rows]
    tables.write(made, tmp_path)
    with (tmp_path / "series.csv").open() as file:
        assert [json.loads(row["unfinished"].lower()) for row in csv.DictReader(file)] == [row.unfinished for row in rows]
    step, runs = 600 / (len(rows) - 1), [place for place in unfinished if place - 1 not in unfinished]
    drawn = re.findall(r'<rect x="([^"]*)" y="0" [^>]*fill="url\(#series-0-hatch\)"', render(made, ZoneInfo("UTC")))
    assert [float(x) for x in drawn] == [round(max(0, place - 0.5) * step, 1) for place in sorted(runs)]


def test_the_schema_says_what_it_means() -> None:
    """Where programs look."""
    series = schema()["properties"]["series"]["properties"]["rows"]["items"]["properties"]
    assert "not wholly in the period" in series["unfinished"]["description"]
