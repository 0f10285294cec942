"""What flows are worth, as a reader sees it: in text, page, JSON and CSV."""

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from btfeed.flow import tables, text
from btfeed.flow.as_json import as_json
from btfeed.flow.checking import findings
from btfeed.flow.definition import Definition, parse
from btfeed.flow.engine import Engine
from btfeed.flow.options import ReportOptions
from btfeed.flow.page import render
from tests.flow.random_flows import BEGIN, line, moment
from tests.flow.test_engine import engine
from tests.flow.test_page import Parsed

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
UTC = ZoneInfo("UTC")


def record(kind: str, flow: int, time: int, **more: Any) -> dict[str, Any]:
    return {"event.type": kind, "event.id": f"{kind}{flow}", "visit": str(flow), "timestamp": moment(time), **more}


def definition(**keys: Any) -> Definition:
    """Two steps, a value at the second, estimated from the first on."""
    value = {"label": "Revenue", "field": "amount", "step": "Paid", "unit": "EUR", "estimate_from": "Cart"}
    tables = {
        "name": "Shop", "correlation": "visit", "lost_after": "30m", "bucket": "1d", "value": value | keys.pop("value", {}),
        "steps": [{"name": "Cart", "event": "Cart"}, {"name": "Paid", "event": "Paid"}],
        "dimensions": {"segment": "segment"},
    }  # fmt: skip
    return parse(tables | keys)


@contextmanager
def shop(rows: list[dict[str, Any]], **keys: Any) -> Iterator[Engine]:
    with engine(definition(**keys), [line(row, number) for number, row in enumerate(rows)]) as running:
        yield running


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_values_that_are_no_numbers_are_counted(tmp_path: Path) -> None:
    """In every form: an amount with a comma or a unit would be missing without a word. An empty one is missing."""
    amounts = ["1.000,50", "12 EUR", "1e400", 10**18, "", None, "7.25", -3, "1e2", True]
    rows = [record("Cart", flow, BEGIN, amount="no value of Paid") for flow in range(len(amounts))]
    rows += [record("Paid", flow, BEGIN + MINUTE, amount=amount) for flow, amount in enumerate(amounts)]
    with shop(rows) as running:
        report = running.report(ReportOptions())
        wrong = list(findings(definition(), running.coverage(), report))
    assert report.figures.value
    assert (report.figures.value.won, report.figures.value.valued) == (104.25, 3)
    note = "5 values of amount are not numbers: they count as missing"
    assert f"note: {note}" in text.report(report, UTC)
    assert note in Parsed(render(report, UTC)).text
    assert as_json(report)["source"]["no_numbers"] == 5
    tables.write(report, tmp_path)
    assert {"note": note} in csv_rows(tmp_path / "notes.csv")
    assert [row["source.no_numbers"] for row in csv_rows(tmp_path / "summary.csv")] == ["5"]
    assert [each for each in wrong if each.startswith("5 values of amount that can't be read")]
    with shop(rows[: len(amounts) + 1]) as running:
        assert "1 value of amount is not a number: it counts as missing" in running.report(ReportOptions()).notes


def test_a_late_flow_is_told_apart_with_its_value(tmp_path: Path) -> None:
    """It has come to the goal, has not converted, and what it is worth is neither won nor lost."""
    rows = [record("Cart", flow, BEGIN, segment="gold") for flow in range(3)]
    rows += [record("Paid", 0, BEGIN + MINUTE, amount=3), record("Paid", 1, BEGIN + 9 * MINUTE, amount=5000)]
    with shop(rows, window="2m") as running:
        report = running.report(ReportOptions(split=(("segment",),)))
    lines = list(text.report(report, UTC))
    assert "Revenue late, neither won nor lost: 5,000 EUR in 1 flow" in lines
    heads = [re.split("  +", each) for each in lines if each.startswith(("step ", "segment "))]
    rows_of = [re.split("  +", each) for each in lines if each.startswith(("Paid ", "gold "))]
    assert [row[head.index("late")] for head, row in zip(heads, rows_of, strict=True)] == ["1", "1"]
    html = render(report, UTC)
    page = Parsed(html)
    assert [each for each in page.text if each.startswith("1 converted, 1 late, ")]
    assert "late 5,000 EUR" in page.text
    assert {"Paid: 1 converted", "Paid: 1 late"} <= set(page.text)
    assert [each for each in page.text if each.endswith(" · 1 converted · 1 late")]
    value, goal = as_json(report)["value"], as_json(report)["steps"][1]
    assert (value["won"], value["lost"]["known"], value["late"]["known"], value["late"]["flows"]) == (3.0, 0.0, 5000.0, 1)
    assert (goal["reached"], goal["late"]) == (2, 1)
    tables.write(report, tmp_path)
    (whole,) = csv_rows(tmp_path / "summary.csv")
    assert (whole["counts.late"], whole["value.late.known"]) == ("1", "5000.0")
    assert [row["late"] for row in csv_rows(tmp_path / "steps.csv")] == ["0", "1"]


def test_an_outage_does_not_look_like_no_loss(tmp_path: Path) -> None:
    """Nobody pays on the second day, nor of a segment on the first: how many can't be estimated is said everywhere."""
    rows = [record("Cart", flow, BEGIN + flow * MINUTE, segment="new" if flow < 3 else "gold") for flow in range(8)]
    rows += [record("Paid", flow, BEGIN + 10 * MINUTE, amount=50, segment="gold") for flow in (3, 4)]
    rows += [record("Cart", flow, BEGIN + DAY + flow * MINUTE, segment="gold") for flow in range(10, 17)]
    with shop(rows, value={"estimate_by": "segment"}) as running:
        as_of = BEGIN + 3 * DAY
        both = running.report(ReportOptions(as_of=as_of, split=(("segment",),)))
        outage = running.report(ReportOptions(as_of=as_of, begin=BEGIN + DAY, compare="none"))
    lines = list(text.report(both, UTC))
    estimated = "Revenue lost: about 500.00 EUR in 10 flows whose value is not known"
    assert f"{estimated}; 3 flows whose value can't be estimated, since none like them converted with one" in lines
    assert [re.split("  +", each)[-2] for each in lines if each.startswith(("gold ", "new "))] == [
        "about 500.00 EUR", "3 flows not estimated",
    ]  # fmt: skip
    alone = "Revenue lost: 7 flows whose value can't be estimated, since none like them converted with one"
    assert alone in text.report(outage, UTC)
    assert "lost 7 flows not estimated" in Parsed(render(outage, UTC)).text
    assert "lost about 500.00 EUR + 3 flows not estimated" in Parsed(render(both, UTC)).text
    assert as_json(outage)["value"]["lost"] == {
        "known": 0.0, "flows": 0, "about": None, "about_flows": 0, "unknown_flows": 7,
    }  # fmt: skip
    tables.write(both, tmp_path)
    column = "value.lost.unknown_flows"
    assert [row[column] for row in csv_rows(tmp_path / "summary.csv")] == ["3"]
    assert [row[column] for row in csv_rows(tmp_path / "series.csv")] == ["3", "7"]
    assert [row[column] for row in csv_rows(tmp_path / "split-segment.csv")] == ["0", "3"]


def test_records_that_are_passed_over_give_no_value(tmp_path: Path) -> None:
    """Nor a dimension. If only they have the field, that is what is said; and they can't count it twice."""
    rows = [record("Cart", 1, BEGIN), record("Paid", 1, BEGIN + MINUTE)]
    rows.append(record("Discount", 1, BEGIN + MINUTE, amount=5, segment="gold"))
    with shop(rows, value={"step": None}) as running:
        report = running.report(ReportOptions(split=(("segment",),)))
        wrong = list(findings(definition(), running.coverage(), report))
    assert report.figures.value
    assert report.figures.value.valued == 0
    assert [part.values for part in report.splits["segment"]] == [("(unknown)",)]
    told = "only records that are passed over have the field {}: make them a step, or leave it out"
    assert {f"value.field: {told.format('amount')}", f"dimensions.segment: {told.format('segment')}"} <= set(wrong)
    assert "note: value.field: no step, exception or end has the field amount" in "\n".join(text.report(report, UTC))
    rows[1]["amount"] = 7
    with shop(rows, value={"step": None}) as running:
        assert list(running.coverage().value_types) == ["Paid"]


def test_each_split_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Also where the names of two dimensions are, joined, that of another."""
    rows = [record("Cart", 1, BEGIN, segment="gold")]
    with shop(rows, dimensions={"a": "segment", "b": "segment", "a-b": "segment"}) as running:
        report = running.report(ReportOptions(split=(("a", "b"), ("a-b",), ("a",))))
    tables.write(report, tmp_path)
    assert {path.name for path in tmp_path.glob("split-*")} == {"split-a,b.csv", "split-a-b.csv", "split-a.csv"}
    assert csv_rows(tmp_path / "split-a,b.csv")[0]["b"] == "gold"
