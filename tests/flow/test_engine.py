"""The engine against the oracle: the same records, and every number of the report is the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from functools import cache
from math import isclose
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from btfeed.flow.definition import Definition
from btfeed.flow.duck import Database
from btfeed.flow.engine import Engine
from btfeed.flow.options import ReportOptions, Source
from tests.flow import oracle, oracle_changes, oracle_report
from tests.flow.random_flows import BROKEN, days, line, list_options, records, report_options
from tests.flow.random_flows import definition as random_definition
from tests.support.strategies import examples


@cache
def orders() -> dict[str, int]:
    """event.id -> what orders events of one time and step: the engine's hash of it."""
    database = Database()
    rows = database.rows("SELECT 'e' || range AS id, hash('e' || range) FROM range(1000)")
    database.close()
    return dict(rows)


def differences(found: Any, expected: Any, path: str = "") -> Iterator[str]:
    """Where two values differ. Doubles may differ in the last digits, since their operations have another order."""
    if is_dataclass(found) and not isinstance(found, type):
        found = asdict(found)
    if is_dataclass(expected) and not isinstance(expected, type):
        expected = asdict(expected)
    if isinstance(found, dict) and isinstance(expected, dict) and found.keys() == expected.keys():
        for key in found:
            yield from differences(found[key], expected[key], f"{path}.{key}")
    elif isinstance(found, list | tuple) and isinstance(expected, list | tuple) and len(found) == len(expected):
        for place, (a, b) in enumerate(zip(found, expected, strict=True)):
            yield from differences(a, b, f"{path}[{place}]")
    elif isinstance(found, float) and isinstance(expected, int | float):
        if not isclose(found, expected, rel_tol=1e-11, abs_tol=1e-9):
            yield f"{path}: {found!r}, expected {expected!r}"
    elif found != expected:
        yield f"{path}: {found!r}, expected {expected!r}"


@contextmanager
def engine(definition: Definition, lines: list[bytes]) -> Iterator[Engine]:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "records.ndjson"
        path.write_bytes(b"".join(each + b"\n" for each in lines))
        with Engine(definition, Source("files", [path])) as running:
            yield running


@settings(max_examples=examples(30))
@given(st.integers(0, 2**64 - 1))
@example(417_580_025_386)  # an end without a time of its own is the latest
def test_every_number_is_that_of_the_oracle(seed: int) -> None:
    """Loops, disorder, equal times, duplicates, missing fields, broken lines, windows, tolerance, order any, optional
    steps, alternatives, exceptions, values, periods, as_of, comparisons, series, splits and lists."""
    assert wrong_numbers(Random(seed)) == []


@pytest.mark.chaos
def test_every_number_is_that_of_the_oracle_a_thousand_times() -> None:
    """The same, longer."""
    assert [wrong for seed in range(1000) for wrong in wrong_numbers(Random(f"flows {seed}"))] == []


def wrong_numbers(rng: Random) -> list[str]:
    """Where reports and a list of random flows differ from what the oracle says."""
    definition, rows = random_definition(rng), records(rng)
    found = oracle.read(definition, rows, orders().__getitem__)
    wrong: list[str] = []
    with engine(definition, [line(row, number) for number, row in enumerate(rows)]) as running:
        asked = [report_options(rng, definition) for _ in range(2)]
        chosen = list_options(rng, definition)
        for options in (*asked, days(rng, definition)):
            report, expected = running.report(options), oracle_report.report(definition, found, options)
            then = report.compare and (
                report.compare.how, report.compare.shift, report.compare.figures, report.compare.series,
            )  # fmt: skip
            before = expected.pop("compared")
            wrong += differences(then, before, "compared")
            if before and report.compare:
                changed = oracle_changes.changes(expected["figures"], before[2])
                wrong += differences(dict(report.compare.changes), changed, "changes")
            wrong += [each for name in expected for each in differences(getattr(report, name), expected[name], name)]
        as_of = chosen.as_of if chosen.as_of is not None else found.last or 0
        picked, _, _ = oracle_report.pick(definition, found, chosen, as_of)
        expected_list = oracle_report.chosen_for_list(definition, picked, chosen, as_of)
        wrong += differences(list(running.flows(chosen)), expected_list, "list")
    return wrong


def test_broken_lines_are_counted() -> None:
    """Cut, no JSON, no object, without a time: each is one unreadable record, and the others count."""
    whole = {"event.type": "A", "timestamp": "2026-03-29T00:00:00.000Z", "visit": "1"}
    definition = Definition.model_validate(
        {"name": "flow", "correlation": "visit", "steps": [{"name": "A", "event": "A"}, {"name": "B", "event": "B"}]}
    )
    with engine(definition, [*BROKEN, line(whole, 0), b"\xff\xfe", b"", line(whole, 0)[:-9]]) as running:
        report = running.report(ReportOptions())
    assert (report.source.records, report.source.unreadable) == (len(BROKEN) + 3, len(BROKEN) + 2)
    assert report.figures.counts.started == 1
