"""Definitions at their limit: 50 steps, of which most are optional. Each may follow every other one before it."""

import resource
from collections.abc import Iterator
from random import Random

import pytest

from btfeed.flow.definition import MOST_STEPS, Definition, parse
from btfeed.flow.options import ReportOptions
from tests.flow import oracle, oracle_report
from tests.flow.random_flows import BEGIN, UNIT, line, moment
from tests.flow.test_engine import differences, engine, orders

MOST_MEMORY = 8 * 10**9
"""Bytes of addresses that a report may take, DuckDB's reserves included. What it touches is a twentieth of that."""


@pytest.fixture
def bounded() -> Iterator[None]:
    """A process that can't have more memory, so that a fault stops the test and not the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def long_definition() -> Definition:
    """All steps but the first and the last are optional."""
    steps = [{"name": f"S{n}", "event": f"e{n}", "optional": 0 < n < MOST_STEPS - 1} for n in range(MOST_STEPS)]
    return parse({"name": "Long", "correlation": "visit", "steps": steps})


@pytest.mark.slow
@pytest.mark.usefixtures("bounded")
def test_fifty_steps_with_optional_ones_are_told_in_bounded_memory() -> None:
    """Flows go on, pass over steps and come back; every number is that of the oracle."""
    rng, definition = Random(50), long_definition()
    rows: list[dict[str, str]] = []
    for flow in range(60):
        place, time = 0, rng.randrange(20)
        while place < MOST_STEPS and rng.random() < 0.95:
            at = moment(BEGIN + time * UNIT)
            rows.append({"event.type": f"e{place}", "timestamp": at, "event.id": f"e{len(rows)}", "visit": str(flow)})
            place, time = max(0, place + rng.choice([1, 1, 2, 9, -3])), time + rng.choice([0, 1, 1, 2, -1])
    options = ReportOptions(compare="none")
    expected = oracle_report.report(definition, oracle.read(definition, rows, orders().__getitem__), options)
    expected.pop("compared")
    with engine(definition, [line(row, number) for number, row in enumerate(rows)]) as running:
        report = running.report(options)
    assert report.figures.counts.disordered
    assert [wrong for name in expected for wrong in differences(getattr(report, name), expected[name], name)] == []
