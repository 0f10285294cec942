"""What a delivery logs of its sink: at the level of who must act, and each error once until the sink works again."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from btfeed.delivery.report import MAX_TOLD, SinkReport
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus, WholeStatus
from btfeed.telemetry.warnings import INTERVAL
from sinks.base import Misconfigured, Unavailable
from tests.support.clock import FakeClock


@pytest.fixture
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as lines:
        yield lines


def told(logged: list[MutableMapping[str, Any]]) -> list[tuple[str, str, int]]:
    return [(line["log_level"], line["event"], line["count"]) for line in logged]


async def test_an_error_is_logged_once_until_the_sink_works_again(logged: list[MutableMapping[str, Any]]) -> None:
    """Also if the destination's answers take turns, as they do while one node of several is restarted."""
    clock = FakeClock()
    report = SinkReport("search", SinkStatus(), Metrics(), clock)
    for _ in range(5):
        for error in (Unavailable("one"), Unavailable("two")):
            report.failed(error)
            await clock.advance(3 * INTERVAL)
    assert [(line["event"], line["error"]) for line in logged] == [("sink unavailable", "one"), ("sink unavailable", "two")]
    report.running()
    report.failed(Unavailable("one"))
    await clock.advance(3 * INTERVAL)
    assert told(logged)[2:] == [("info", "sink running", 1), ("warning", "sink unavailable", 1)]
    report.stopped()


async def test_a_sink_that_comes_and_goes_is_summed_up(logged: list[MutableMapping[str, Any]]) -> None:
    """A destination that pushes back does so many times a second."""
    clock = FakeClock()
    report = SinkReport("search", SinkStatus(), Metrics(), clock)
    for _ in range(100):
        report.running()
        report.failed(Unavailable("too many requests"))
    assert told(logged) == [("info", "sink running", 1), ("warning", "sink unavailable", 1)]
    await clock.advance(INTERVAL)
    assert told(logged)[2:] == [("info", "sink running", 99), ("warning", "sink unavailable", 99)]
    assert {line["sink"] for line in logged} == {"search"}
    report.stopped()


async def test_a_sink_that_needs_a_person_is_an_error(logged: list[MutableMapping[str, Any]]) -> None:
    """One that will come back by itself is a warning."""
    report = SinkReport("search", SinkStatus(), Metrics(), FakeClock())
    report.failed(Unavailable("away"))
    report.failed(Misconfigured("wrong password"))
    assert told(logged) == [("warning", "sink unavailable", 1), ("error", "sink misconfigured", 1)]
    report.stopped()


async def test_errors_that_are_all_different_end_in_silence(logged: list[MutableMapping[str, Any]]) -> None:
    """Such as those with the number of a request. The status has the last one."""
    clock, status = FakeClock(), SinkStatus()
    report = SinkReport("search", status, Metrics(), clock)
    for number in range(10 * MAX_TOLD):
        report.failed(Unavailable(f"request {number} failed"))
        await clock.advance(3 * INTERVAL)
    assert len(logged) == MAX_TOLD
    assert status.last_error == f"request {10 * MAX_TOLD - 1} failed"
    report.stopped()


async def test_deliveries_of_one_sink_tell_its_errors_once() -> None:
    """And that it works again when the last of them does."""
    clock, whole = FakeClock(), WholeStatus()
    reports = [SinkReport("search", whole.begin(partition), Metrics(), clock) for partition in range(3)]
    with capture_logs() as logs:
        for report in reports:
            report.running()
        for report in reports:
            report.failed(Unavailable("away"))
        for report in reports:
            report.running()
            report.stopped()
    assert [(entry["event"], entry.get("after")) for entry in logs] == [
        ("sink running", "opening"),
        ("sink unavailable", None),
        ("sink running", "unavailable"),
    ]
