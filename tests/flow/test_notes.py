"""What a reader is told beside the numbers: of a bank with a flow each hour for 20 days, some of which are still open."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest

from btfeed.flow.definition import parse
from btfeed.flow.engine import Engine
from btfeed.flow.options import ReportOptions
from tests.flow.random_flows import BEGIN, line, moment
from tests.flow.test_engine import engine

HOUR, DAY = 3_600_000, 86_400_000
DAYS = 20
END = BEGIN + DAYS * DAY


def records() -> Iterator[dict[str, Any]]:
    """Half of the flows convert after a day. The record that ends a flow has its city; open flows have none."""
    for hour in range(DAYS * 24):
        begun = BEGIN + hour * HOUR
        yield _record("A", hour, begun, {"segment": "basic" if hour % 3 else "gold"})
        if begun + DAY < END:
            yield _record("B" if hour % 2 else "visit", hour, begun + DAY, {"city": "Graz", "amount": hour % 2 or None})


def _record(kind: str, flow: int, time: int, more: dict[str, Any]) -> dict[str, Any]:
    return {"event.type": kind, "event.id": f"{kind}{flow}", "visit": str(flow), "timestamp": moment(time)} | more


@pytest.fixture(scope="module", params=["20d", None], ids=["window", "usual time"])
def bank(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine, of a definition with a window and of one without."""
    steps = [{"name": "A", "event": "A"}, {"name": "B", "event": "B"}]
    dimensions = {"segment": "segment", "city": "city"}
    settings = {"name": "Loan", "correlation": "visit", "ends": {"event.type": "visit"}, "lost_after": "90d"}
    value = {"field": "amount", "step": "B", "estimate_from": "A"}
    window = {"window": request.param} if request.param else {}
    definition = parse({**settings, **window, "steps": steps, "dimensions": dimensions, "value": value})
    with engine(definition, [line(row, number) for number, row in enumerate(records())]) as running:
        assert running.read.matched
        yield running


def told(bank: Engine, **options: Any) -> str:
    """The notes of a report."""
    return "\n".join(bank.report(ReportOptions(**options)).notes)


def test_flows_that_are_too_young_are_counted(bank: Engine) -> None:
    """With the limit: of the window, else of what is usual. Without a word, a report of zeros would be a riddle."""
    notes = told(bank, mature=True, begin=END - 5 * DAY)
    windowed = bank.report(ReportOptions()).usual == DAYS * DAY
    young, limit = ("120", "20.0 d, the window") if windowed else ("25", "1.0 d, within which 99 %")
    assert f"left out: {young} flows too young to be over: the limit is {limit}" in notes
    (one,) = [note for note in bank.report(ReportOptions(mature=True, begin=END - HOUR)).notes if "young" in note]
    assert one.startswith("left out: 1 flow too young")
    assert "young" not in told(bank, begin=END - 5 * DAY)


def test_what_records_do_not_cover_is_not_compared(bank: Engine) -> None:
    """11 of 20 days have no 11 days before them, nor a week of Monday to compare with; 10 days have."""
    hows: tuple[Literal["previous"] | int | None, ...] = (None, "previous", 15 * DAY)
    for how in hows:
        report = bank.report(ReportOptions(compare=how, covered=True, begin=END - 11 * DAY))
        assert report.compare is None
        assert "nothing is compared: records begin at 2026-03-29 00:00 UTC" in "\n".join(report.notes)
    report = bank.report(ReportOptions(covered=True, begin=END - 10 * DAY))
    assert report.compare
    assert "nothing is compared" not in "\n".join(report.notes)
    assert "nothing is compared" not in told(bank, covered=True, begin=END - 11 * DAY, compare="none")


def test_of_what_is_only_estimated_no_change_is_told(bank: Engine) -> None:
    """Lost flows have no value of their own: 0 would say that nothing was lost."""
    report = bank.report(ReportOptions(begin=END - 10 * DAY))
    assert report.compare
    assert report.figures.value
    assert report.figures.value.lost.about
    assert "value.won" in report.compare.changes
    assert not {"value.lost", "value.at_risk"} & report.compare.changes.keys()


def test_a_split_by_what_only_the_end_says_is_told(bank: Engine) -> None:
    """Open flows have no city yet; all have a segment."""
    assert "24 of 24 open flows without city yet" in told(bank, split=(("city",),))
    assert "yet" not in told(bank, split=(("segment",),))


def test_a_report_of_no_flow_says_why(bank: Engine) -> None:
    """The values that there are, or from when to when records are."""
    assert "no flow has the segment nosuch; there is basic, gold" in told(bank, where=(("segment", "nosuch"),))
    for period in ({"as_of": BEGIN - DAY}, {"begin": END + 30 * DAY, "end": END + 31 * DAY}, {"begin": END, "end": END}):
        notes = told(bank, **period)
        assert "no flow in this period: records are from 2026-03-29 00:00 UTC to 2026-04-17 23:00 UTC" in notes
