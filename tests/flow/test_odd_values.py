"""Records with values that look like something else."""

from typing import Any

from btfeed.flow.definition import parse
from btfeed.flow.options import ReportOptions
from tests.flow.random_flows import BEGIN, line, moment
from tests.flow.test_engine import engine

DEFINITION = parse(
    {
        "name": "F", "correlation": "visit", "dimensions": {"city": "city", "country": "country"},
        "steps": [{"name": "A", "event": "A"}, {"name": "B", "event": "B"}],
    }
)  # fmt: skip


def record(visit: int, time: int = 0, **more: Any) -> dict[str, Any]:
    return {"event.type": "A", "visit": str(visit), "timestamp": moment(BEGIN + time)} | more


def test_records_with_an_empty_id_are_no_copies() -> None:
    """An id that says nothing is none."""
    rows = [record(1, time, **{"event.id": name}) for time, name in enumerate(("", "", "x", "x"))]
    with engine(DEFINITION, [line(row, number) for number, row in enumerate(rows)]) as running:
        report = running.report(ReportOptions())
    assert (report.source.duplicates, report.figures.steps[0].visits) == (1, 3)


def test_a_split_has_one_part_of_others() -> None:
    """Of two dimensions, too, though a record says "(others)" itself, which is the largest."""
    strange: dict[str, Any] = {"city": "(others)", "country": "(others)"}
    rows = [record(visit, **strange) for visit in range(3)]
    rows += [record(visit, city=f"c{visit}", country="(others)") for visit in range(3, 25)]
    with engine(DEFINITION, [line(row, number) for number, row in enumerate(rows)]) as running:
        splits = running.report(ReportOptions(split=(("city",), ("city", "country"), ("country",)))).splits
    for names in ("city", "city,country"):
        *told, others = splits[names]
        assert [part.figures.counts.started for part in told] == [1] * 20
        assert (set(others.values), others.figures.counts.started) == ({"(others)"}, 3 + 2)
    assert [(part.values, part.figures.counts.started) for part in splits["country"]] == [(("(others)",), 25)]
