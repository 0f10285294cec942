"""A report as CSV: a folder with a file for each table. Numbers are as in the JSON, what can't be told is empty."""

import csv
import io
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from btfeed.flow import files
from btfeed.flow.as_json import as_json, plain
from btfeed.flow.report import ListedFlow, Report, Spread, Time, Transition

_NOT_IN_EACH = {
    "split-*.csv": "counts.started", "list-*.csv": "furthest",
    "compare.csv": "number", "compare-series.csv": "counts.started",
}  # fmt: skip
_COLUMNS = _NOT_IN_EACH | {
    "summary.csv": "definition", "steps.csv": "of_start", "times.csv": "spread.median", "transitions.csv": "gap.median",
    "series.csv": "counts.started", "notes.csv": "note",
}  # fmt: skip
"""Names of tables, and of those that not every report has -> a column of theirs, by which they are known."""
_LONGEST_HEAD = 2**16


def tables(report: Report) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Name and rows of each table; the keys of a row are the columns. Nested numbers have names such as time.median."""
    found = as_json(report)
    single = {key: found[key] for key in ("flow", "definition", "as_of", "usual")}
    nested = {key: found[key] for key in ("period", "source", "counts", "conversion", "duration", "value", "exceptions")}
    yield "summary", [_flat(single | nested)]
    for name in ("steps", "times", "transitions"):
        yield name, [_flat(row) for row in found[name]]
    yield "series", _buckets(found["series"]["rows"])
    for name, parts in found["splits"].items():
        rows = []
        for part in parts:
            values = dict(zip(name.split(","), part["values"], strict=True))
            rows.append(values | _flat({key: part[key] for key in _OF_FIGURES}))
        yield f"split-{name}", rows
    for name, flows in found["lists"].items():
        yield f"list-{name.replace('_', '-')}", [_flat(flow) for flow in flows]
    if found["compare"]:
        changes = [{"number": name, **change} for name, change in found["compare"]["changes"].items()]
        yield "compare", changes
        yield "compare-series", _buckets(found["compare"]["series"]["rows"])
    yield "notes", [{"note": note} for note in found["notes"]]


_OF_FIGURES = ("counts", "conversion", "duration", "value", "exceptions")


def _buckets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = ("from", "to", "unfinished", *_OF_FIGURES)
    return [_flat({key: row[key] for key in kept}) for row in rows]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": each for inner, each in _flat(value).items()}
        elif isinstance(value, list):
            flat[name] = " ".join(map(str, value))
        else:
            flat[name] = value
    return flat


def _columns(name: str, report: Report) -> list[str]:
    """Of a table without rows: those that each row would have."""
    empty = Spread(0, None, None, None, None, None)
    figures = {key: value for key, value in as_json(report).items() if key in _OF_FIGURES}
    kind = name.partition("-")[0]
    if kind == "split":
        split = name.partition("-")[2]
        return [*split.split(","), *_flat(figures)]
    rows: dict[str, dict[str, Any]] = {
        "list": plain(ListedFlow("", 0, "open", "", 0, None, None, 0, _dimensions(report))),
        "times": plain(Time("", "", "", empty)),
        "transitions": plain(Transition("", "", 0, empty, None, ())),
        "series": {"from": None, "to": None, "unfinished": None} | figures,
        "compare": {"from": None, "to": None, "unfinished": None} | figures,
        "notes": {"note": None},
    }
    return list(_flat(rows[kind]))


def _dimensions(report: Report) -> dict[str, str]:
    """Names of dimensions, as far as the flows of other lists show them."""
    return {name: "" for flows in report.lists.values() for flow in flows for name in flow.dimensions}


def write(report: Report, folder: Path) -> list[Path]:
    """Write the files, all or none, and return their paths. Tables of an earlier report that this one does not have are
    removed: they would look like its own. Raises OSError, so for a file of such a name that is no table of a report."""
    contents = {folder / f"{name}.csv": _content(name, rows, report) for name, rows in tables(report)}
    with files.alone(folder):
        files.replace_own(contents, _is_table)
        for path in sorted(set(folder.glob("*.csv")) - set(contents)):
            if any(fnmatchcase(path.name, pattern) for pattern in _NOT_IN_EACH) and _is_table(path):
                path.unlink()
    return list(contents)


def _content(name: str, rows: list[dict[str, Any]], report: Report) -> bytes:
    columns = list(dict.fromkeys(column for row in rows for column in row)) or _columns(name, report)
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows({key: _safe(value) for key, value in row.items()} for row in rows)
    return file.getvalue().encode()


def _is_table(path: Path) -> bool:
    """Whether it is a table of a report: it has the name of one, and its columns."""
    column = next((column for pattern, column in _COLUMNS.items() if fnmatchcase(path.name, pattern)), None)
    if column is None or not path.is_file():
        return False
    with path.open("rb") as file:
        return column in file.readline(_LONGEST_HEAD).decode("utf-8", "replace").strip().split(",")


def _safe(value: Any) -> Any:
    """Spreadsheets take a text that begins so as a formula, and texts come from records."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
