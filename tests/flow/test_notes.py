"""What a reader is told beside the numbers: of a bank with a flow each hour for 20 days, some of which are still open."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest

from btfeed.flow.checking import findings
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


@pytest.mark.slow
def test_periods_that_overlap_are_told(bank: Engine) -> None:
    """Flows in both hide what has changed. A period that ends where the other begins has none in common."""
    for shift, both in ((DAY, "overlap by 4.0 d"), (4 * DAY, "overlap by 1.0 d")):
        assert both in told(bank, compare=shift, begin=END - 5 * DAY, end=END)
    for how in (5 * DAY, "previous", "week", None):
        assert "overlap" not in told(bank, compare=how, begin=END - 5 * DAY, end=END)
        assert "overlap" not in told(bank, compare=how, begin=END - 5 * DAY)


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


def test_flows_of_a_value_that_only_the_end_says_are_told(bank: Engine) -> None:
    """The rate of a city is of flows that are over, as if there were no open ones; a segment's is not."""
    assert "24 of 24 open flows without city yet" in told(bank, where=(("city", "Graz"), ("segment", "basic")))
    assert "yet" not in told(bank, where=(("segment", "basic"),))
    assert "yet" not in told(bank, where=(("city", "(unknown)"),))
    assert "yet" not in told(bank, where=(("city", "Graz"),), end=END - 5 * DAY)


def test_one_wrong_date_of_the_past_costs_the_series_alone() -> None:
    """In every time zone, also for a period that begins so early."""
    steps = [{"name": "A", "event": "A"}, {"name": "B", "event": "B"}]
    for zone, first, begin in (
        ("UTC", "0001-01-01T00:00:00Z", None),
        ("America/New_York", "0001-01-01T00:00:00Z", None),
        ("UTC", "2026-03-01T00:00:00Z", -62_135_596_800_000),
    ):
        definition = parse({"name": "Loan", "correlation": "visit", "timezone": zone, "steps": steps})
        rows = [_record("A", number, BEGIN, {}) for number in range(3)]
        rows.append(_record("A", 3, BEGIN, {}) | {"timestamp": first})
        with engine(definition, [line(row, number) for number, row in enumerate(rows)]) as running:
            report = running.report(ReportOptions(begin=begin))
        assert (report.figures.counts.started, report.series.rows) == (4, ())
        assert f"the first record is of {first[:10]} 00:00 UTC: is its date right?" in "\n".join(report.notes)


def test_a_date_that_no_calendar_shows_is_no_time() -> None:
    """Of year 10000 and later, and before Christ: the record is left out, and counted."""
    definition = parse({"name": "Loan", "correlation": "visit", "steps": [{"name": n, "event": n} for n in "AB"]})
    rows = [_record("A", 0, BEGIN, {})]
    rows += [_record("A", 1, BEGIN, {}) | {"timestamp": f"{year}-01-01T00:00:00Z"} for year in ("99999", "-0044")]
    with engine(definition, [line(row, number) for number, row in enumerate(rows)]) as running:
        assert "left out, since cut or no record with a time: 2 lines" in told(running)


def test_one_wrong_date_of_the_future_is_told() -> None:
    """Later than the clock, or long after the record before it; not if the report is asked to look from before it."""
    steps = [{"name": "A", "event": "A"}, {"name": "B", "event": "B"}]
    definition = parse({"name": "Loan", "correlation": "visit", "lost_after": "48h", "steps": steps})
    for last, told_of in (
        ("2199-01-01T00:00:00Z", "of 2199-01-01 00:00 UTC, later than this machine's clock; the newest that is not is of"),
        (moment(BEGIN + 2 * DAY + 1), "long after the one before, of 2026-03-29 00:00 UTC"),
        (moment(BEGIN + 2 * DAY), None),
    ):
        rows = [_record("A", 0, BEGIN, {}), _record("A", 1, BEGIN, {}) | {"timestamp": last}]
        with engine(definition, [line(row, number) for number, row in enumerate(rows)]) as running:
            notes = told(running)
            assert told_of in notes if told_of else "the newest record" not in notes
            assert "the newest record" not in told(running, as_of=BEGIN + 1)


def test_ids_that_come_back_are_told() -> None:
    """Customers who buy each week are one flow each: begun again after the goal, or, without one, after a long pause. Who
    goes on within `lost_after`, or comes to the first step again before the goal, is not among them."""
    steps = [{"name": "A", "event": "A"}, {"name": "B", "event": "B"}]
    definition = parse({"name": "Shop", "correlation": "visit", "steps": steps})
    note = "began again after the goal, or went on after a pause longer than lost_after: an id is one flow"
    for kinds, pause, told_of in (
        ("ABABAB", 7 * DAY, "10 of 10 flows"),
        ("AB" * 3, HOUR, "10 of 10 flows"),
        ("AA", DAY + 1, "10 of 10 flows"),
        ("AA", DAY, None),
        ("AAB", DAY, None),
        ("ABB", DAY, None),
    ):
        rows = [
            _record(kind, flow, BEGIN + number * pause, {"event.id": f"{flow}-{number}"})
            for flow in range(10)
            for number, kind in enumerate(kinds)
        ]
        with engine(definition, [line(row, number) for number, row in enumerate(rows)]) as running:
            report = running.report(ReportOptions())
        assert report.figures.counts.resumed == (10 if told_of else 0)
        notes = "\n".join(report.notes)
        assert f"{told_of} {note}" in notes if told_of else note not in notes
        assert "If visit is not new with each visit or order" in notes or not told_of


@pytest.mark.parametrize("settings", [{"order": "any"}, {"tolerance": "1h"}])
def test_steps_in_any_order_are_neither_a_return_nor_an_unknown_way(settings: dict[str, str]) -> None:
    """The first step may come after the goal. A pause that is too long is one in any order."""
    steps = [{"name": "A", "event": "A"}, {"name": "B", "event": "B"}]
    definition = parse({"name": "Shop", "correlation": "visit", "steps": steps, **settings})
    for pause, times in ((HOUR, 0), (DAY + 1, 10)):
        rows = [_record("B", flow, BEGIN, {}) for flow in range(10)]
        rows += [_record("A", flow, BEGIN + pause, {}) for flow in range(10)]
        with engine(definition, [line(row, number) for number, row in enumerate(rows)]) as running:
            report = running.report(ReportOptions())
            objections = list(findings(definition, running.coverage(), report))
        assert report.figures.counts.resumed == times
        if "order" in settings:
            assert not [each for each in (*report.notes, *objections) if "ways" in each]


def test_few_ids_that_come_back_are_not_told() -> None:
    """One of 20 flows is no more than 5 %."""
    steps = [{"name": "A", "event": "A"}, {"name": "B", "event": "B"}]
    definition = parse({"name": "Shop", "correlation": "visit", "steps": steps})
    rows = [_record("A", flow, BEGIN + flow, {}) for flow in range(20)]
    rows.append(_record("A", 0, BEGIN + 3 * DAY, {"event.id": "again"}))
    for some, told_of in ((rows, False), ([*rows[:19], rows[-1]], True)):
        with engine(definition, [line(row, number) for number, row in enumerate(some)]) as running:
            report = running.report(ReportOptions())
        assert report.figures.counts.resumed == 1
        assert ("an id is one flow" in "\n".join(report.notes)) == told_of


def test_a_report_of_no_flow_says_why(bank: Engine) -> None:
    """The values that there are, or from when to when records are."""
    assert "no flow has the segment nosuch; there is basic, gold" in told(bank, where=(("segment", "nosuch"),))
    for period in ({"as_of": BEGIN - DAY}, {"begin": END + 30 * DAY, "end": END + 31 * DAY}, {"begin": END, "end": END}):
        notes = told(bank, **period)
        assert "no flow in this period: records are from 2026-03-29 00:00 UTC to 2026-04-17 23:00 UTC" in notes
