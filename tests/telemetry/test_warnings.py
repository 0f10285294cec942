"""Warnings that are summed up."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from btfeed.telemetry.warnings import INTERVAL, SummedWarnings
from tests.support.clock import FakeClock


def _lines(logged: list[Any]) -> list[tuple[str, str, int]]:
    assert all(line["log_level"] == "warning" for line in logged)
    return [(line["event"], line["sample"], line["count"]) for line in logged]


async def test_the_first_is_logged_at_once_and_the_next_as_a_sum() -> None:
    """With the latest fields, once an interval. A key that was quiet for an interval is logged at once again."""
    clock = FakeClock()
    warnings = SummedWarnings(clock)
    with capture_logs() as logged:
        for number in range(100):
            warnings.warn("lost", "key", 2, sample=f"post {number}")
        assert _lines(logged) == [("lost", "post 0", 2)]
        await clock.advance(INTERVAL)
        assert _lines(logged)[1:] == [("lost", "post 99", 198)]
        warnings.warn("lost", "key", sample="late")
        await clock.advance(INTERVAL)
        assert _lines(logged)[2:] == [("lost", "late", 1)]
        await clock.advance(3 * INTERVAL)
        warnings.warn("lost", "key", sample="new")
        assert _lines(logged)[3:] == [("lost", "new", 1)]
    warnings.close()
    await clock.advance(INTERVAL)
    assert clock.waiting == 0


async def test_each_key_has_its_own_lines() -> None:
    """Also with the same event, and with other times."""
    clock = FakeClock()
    warnings = SummedWarnings(clock)
    with capture_logs() as logged:
        warnings.warn("lost", 1, sample="a")
        await clock.advance(INTERVAL / 2)
        warnings.warn("lost", 2, sample="b")
        warnings.warn("lost", 1, sample="c")
        warnings.warn("lost", 2, sample="d")
        await clock.advance(INTERVAL / 2)
        assert _lines(logged) == [("lost", "a", 1), ("lost", "b", 1), ("lost", "c", 1)]
        await clock.advance(INTERVAL / 2)
        assert _lines(logged)[3:] == [("lost", "d", 1)]
    warnings.close()


@pytest.mark.parametrize("closed", [False, True])
def test_without_an_event_loop_the_owner_flushes(closed: bool) -> None:
    """What is due, or everything at the end."""
    clock = FakeClock()
    warnings = SummedWarnings(clock)
    with capture_logs() as logged:
        warnings.warn("lost", "key", sample="a")
        warnings.warn("lost", "key", 5, sample="b")
        warnings.flush()
        assert _lines(logged) == [("lost", "a", 1)]
        if not closed:
            clock.now = INTERVAL
            warnings.flush()
            assert _lines(logged) == [("lost", "a", 1), ("lost", "b", 5)]
        warnings.close()
        assert _lines(logged) == [("lost", "a", 1), ("lost", "b", 5)]


async def test_the_level_is_kept_in_sums() -> None:
    """Of errors, with the traceback of the last one, and of what is only worth knowing."""
    clock = FakeClock()
    warnings = SummedWarnings(clock)
    bug = ValueError("a bug")
    with capture_logs() as logged:
        for _ in range(3):
            warnings.error("bug", "bug", exc_info=bug)
            warnings.info("works", "works")
        warnings.close()
    levels = [("error", "bug", 1), ("info", "works", 1), ("error", "bug", 2), ("info", "works", 2)]
    assert [(line["log_level"], line["event"], line["count"]) for line in logged] == levels
    assert [line["exc_info"] for line in logged if line["event"] == "bug"] == [bug, bug]
