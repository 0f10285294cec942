"""How reports are shown: text, JSON with its schema, CSV. With a report made by hand, and no engine."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema

from btfeed.flow import tables, text, words
from btfeed.flow.as_json import as_json, encode
from btfeed.flow.report import Report
from btfeed.flow.schema import schema
from tests.flow.samples import report

UTC = ZoneInfo("UTC")
GOLDEN = Path(__file__).parent / "report.txt"
"""The text of the sample. To renew it after a change that is meant: python -m tests.flow.test_forms"""


def shown() -> str:
    return "\n".join(text.report(report(), UTC)) + "\n"


def test_the_text_of_a_report() -> None:
    """Word for word."""
    assert shown() == GOLDEN.read_text()


def test_numbers_that_can_t_be_told_are_dashes() -> None:
    """And what is not 0 or not 100 % does not look like it."""
    assert words.percent(None) == words.time(None) == words.money(None) == "-"
    assert (words.percent(0.0001), words.percent(0.9999), words.percent(0.0)) == ("< 0.1 %", "> 99.9 %", "0.0 %")
    assert [words.time(each) for each in (0, 999, 1000, 60_000, 5_400_000, 1e9)] == [
        "0 ms", "999 ms", "1.0 s", "1.0 min", "1.5 h", "11.6 d",
    ]  # fmt: skip


def test_json_keeps_to_its_schema() -> None:
    """Also that of a report without a comparison and without a value. The schema is that in the documentation."""
    jsonschema.Draft202012Validator.check_schema(schema())
    whole = report()
    bare = replace(whole, compare=None, splits={}, lists={}, figures=replace(whole.figures, value=None))
    for each in (whole, bare):
        jsonschema.validate(json.loads(encode(as_json(each))), schema())
    assert json.loads(Path("docs/flow-report.schema.json").read_text()) == schema()


def test_json_has_every_number_by_the_name_that_the_design_gives_it() -> None:
    """Numbers of all flows at the top level, moments as text."""
    found = as_json(report())
    assert (found["version"], found["counts"]["started"], found["period"]["from"]) == (
        1,
        13_367,
        "2026-03-04T00:00:00.000Z",
    )
    assert found["series"]["rows"][0]["to"] == "2026-03-05T00:00:00.000Z"
    assert found["transitions"][1] | {"gap": None} == {
        "from": "Calculator", "to": "Application", "n": 4605, "gap": None, "way": "after",
        "flows": ["8589934593", "8589934600", "8589934611"],
    }  # fmt: skip
    assert found["lists"]["open_longest_idle"][0]["decided"] is None


def test_csv_has_the_numbers_of_the_json(tmp_path: Path) -> None:
    """A file for each table, with the same numbers under the same names."""
    found = as_json(report())
    paths = {path.stem: path for path in tables.write(report(), tmp_path / "new")}
    rows = {name: list(csv.DictReader(path.read_text().splitlines())) for name, path in paths.items()}
    assert set(rows) == {
        "summary", "steps", "times", "transitions", "series", "split-segment", "compare", "compare-series", "notes",
        "list-dropped-with-exception", "list-open-longest-idle", "list-largest-lost",
    }  # fmt: skip
    for row, step in zip(rows["steps"], found["steps"], strict=True):
        assert {name: row[name] for name in flat(step)} == flat(step)
    assert rows["summary"][0]["counts.started"] == "13367"


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    def pairs() -> Iterator[tuple[str, str]]:
        for name, inner in value.items():
            if isinstance(inner, dict):
                yield from flat(inner, f"{prefix}{name}.").items()
            else:
                items = inner if isinstance(inner, list) else [inner]
                yield f"{prefix}{name}", " ".join("" if each is None else str(each) for each in items)

    return dict(pairs())


def test_a_table_without_rows_has_the_same_head(tmp_path: Path) -> None:
    """Whichever of them is empty."""

    def heads(of: Report) -> dict[str, list[str]]:
        return {path.stem: path.read_text().splitlines()[0].split(",") for path in tables.write(of, tmp_path)}

    whole = report()
    series = replace(whole.series, rows=())
    lists = {name: flows[: name == "open_longest_idle"] for name, flows in whole.lists.items()}
    assert whole.compare
    compare = replace(whole.compare, series=series)
    splits = dict.fromkeys(whole.splits, ())
    figures = replace(whole.figures, times=())
    empty = replace(
        whole, series=series, lists=lists, splits=splits, transitions=(), notes=(), compare=compare, figures=figures
    )
    assert heads(empty) == heads(whole)


def test_no_table_of_an_earlier_report_stays(tmp_path: Path) -> None:
    """What others put into the folder does."""
    paths = {path.name for path in tables.write(report(), tmp_path)}
    (tmp_path / "split-wood.csv").write_text("kind,price\n")
    (tmp_path / "prices.csv").write_text("counts.started\n")
    tables.write(replace(report(), compare=None, splits={}), tmp_path)
    left = paths - {"split-segment.csv", "compare.csv", "compare-series.csv"} | {"split-wood.csv", "prices.csv"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_a_spreadsheet_takes_no_text_of_a_record_for_a_formula(tmp_path: Path) -> None:
    """Such as one in the name of a segment."""
    evil = replace(report(), notes=("=cmd()",))
    paths = {path.stem: path for path in tables.write(evil, tmp_path)}
    assert paths["notes"].read_text().splitlines() == ["note", "'=cmd()"]


if __name__ == "__main__":
    GOLDEN.write_text(shown())
