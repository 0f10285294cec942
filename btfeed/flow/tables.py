"""A report as CSV: a folder with a file for each table. Numbers are as in the JSON, what can't be told is empty."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from btfeed.flow.as_json import as_json
from btfeed.flow.report import Report


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
        yield f"split-{name.replace(',', '-')}", rows
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


def write(report: Report, folder: Path) -> list[Path]:
    """Write the files, and return their paths. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, rows in tables(report):
        path = folder / f"{name}.csv"
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({key: _safe(value) for key, value in row.items()} for row in rows)
        written.append(path)
    return written


def _safe(value: Any) -> Any:
    """Spreadsheets take a text that begins so as a formula, and texts come from records."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
