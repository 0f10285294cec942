"""What charts show: rates and levels at even distances, with gaps where nothing was read."""

import json
from typing import Any

import pytest

from btfeed.admin.history import INTERVAL, PERIODS, History
from btfeed.telemetry.trends import Sample
from tests.support.clock import FakeClock


def status(posts: int, delivered: int = 0, backlog: int | None = 0, sink: str = "a") -> dict[str, Any]:
    counts = {"posts": posts, "received_occurrences": 100 * posts, "refused_posts": {"malformed": posts // 10}}
    counts |= {"journal_bytes": 250, "journal_limit_bytes": 1000}
    return {"counts": counts, "sinks": {sink: {"delivered": delivered, "backlog_posts": backlog}}}


class Watched:
    """A history that is read every INTERVAL seconds."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.history = History(self.clock)

    def read(self, *statuses: dict[str, Any]) -> None:
        for each in statuses:
            self.history.add(Sample(self.clock.now, each))
            self.clock.now += INTERVAL

    def series(self, period: str, name: str, last: int) -> list[float | None]:
        found = self.history.shown()[period]
        assert len(found[name]) == found["points"] == PERIODS[period][1]
        assert not any(found[name][:-last])
        return list(found[name][-last:])


def test_a_point_has_the_rates_between_two_readings() -> None:
    """And the levels at the second one. Before the start there are none."""
    watched = Watched()
    watched.read(status(0), status(10, 500, 3), status(10, 500, None))
    assert watched.series("15m", "posts", 2) == [2.0, 0.0]
    assert watched.series("15m", "occurrences", 2) == [200.0, 0.0]
    assert watched.series("15m", "refused", 2) == [0.2, 0.0]
    assert watched.series("15m", "journal", 2) == [0.25, 0.25]
    sink = watched.history.shown()["15m"]["sinks"]["a"]
    assert (sink["delivered"][-2:], sink["backlog"][-2:]) == ([100.0, 0.0], [3, None])
    assert watched.history.shown()["since"] == watched.clock.epoch * 1000


def test_a_long_period_averages_over_its_step() -> None:
    """Its points come less often."""
    watched = Watched()
    watched.read(*(status(at) for at in range(121)))
    assert watched.series("24h", "posts", 2) == [0.2, 0.2]
    assert watched.series("15m", "posts", 120) == [0.2] * 120


def test_a_process_that_was_stopped_leaves_a_gap() -> None:
    """The next point is the average over it. Readings that come a little late leave none."""
    watched = Watched()
    watched.read(status(0), status(10))
    watched.clock.now += 4 * INTERVAL
    watched.read(status(60))
    watched.clock.now += 1.5
    watched.read(status(70))
    assert watched.series("15m", "posts", 7) == [2.0, None, None, None, None, 2.0, pytest.approx(10 / 6.5, abs=0.001)]


def test_a_gap_that_is_longer_than_a_period_empties_it() -> None:
    """However long it was."""
    watched = Watched()
    watched.read(status(0), status(10))
    watched.clock.now += 1e6
    watched.read(status(10))
    assert watched.series("15m", "posts", 1) == [0.0]
    assert watched.series("24h", "posts", 1) == [0.0]


def test_a_clock_that_is_set_moves_no_point() -> None:
    """Points are placed by a clock that does not jump; the newest has the time that it is now."""
    watched = Watched()
    watched.read(status(0))
    watched.clock.epoch -= 86_400
    watched.read(status(10))
    assert watched.series("15m", "posts", 1) == [2.0]
    assert watched.history.shown()["15m"]["end"] == round((watched.clock.epoch + INTERVAL) * 1000)


def test_sinks_come_and_go() -> None:
    """A new one has no points before; one that is gone has none at all. One that came back counts from zero."""
    watched = Watched()
    watched.read(status(0, 100), status(0, 200), status(0, 5), status(0, 10, sink="b"))
    sinks = watched.history.shown()["15m"]["sinks"]
    assert list(sinks) == ["b"]
    assert sinks["b"]["delivered"][-3:] == [None, None, 2.0]
    watched.read(status(0, 10), status(0, 5))
    assert watched.history.shown()["15m"]["sinks"]["a"]["delivered"][-1] == 0.0


def test_it_is_bounded() -> None:
    """A day of readings gives as many points as a quarter of an hour needs."""
    watched = Watched()
    watched.read(*(status(at) for at in range(2000)))
    shown = watched.history.shown()
    assert {len(shown[name]["posts"]) for name in PERIODS} == {180, 288}
    assert len(json.dumps(shown)) < 40_000
