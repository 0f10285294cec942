"""The state of a sink in words."""

from typing import Any

import pytest

from btfeed.admin.sink_words import caught_up_in, words

NOW = 1_768_557_911_482  # 2026-01-16 10:05:11 UTC
MINUTE = 60_000


def sink(state: str = "running", **more: Any) -> dict[str, Any]:
    return {
        "state": state, "backlog_posts": 0, "behind_since": None, "caught_up_in_seconds": None, "last_error": None,
        "paused_since": None, "blocked": [], "blocked_destinations": 0,
    } | more  # fmt: skip


def blocked(name: str, reason: str = "index closed") -> dict[str, Any]:
    return {"destination": name, "reason": reason, "since": NOW, "waiting": 3}


BEHIND: dict[str, Any] = {"backlog_posts": 12_000, "behind_since": NOW - 63 * MINUTE}


@pytest.mark.parametrize(
    ("state", "slope", "expected"),
    [
        (sink(), None, "delivering"),
        (sink(backlog_posts=3), 0.0, "delivering"),
        (sink("opening"), None, "connecting"),
        (sink(**BEHIND), None, "delivering, 12,000 posts behind since 09:02 UTC"),
        (sink(**BEHIND), 0.0, "delivering, 12,000 posts behind since 09:02 UTC"),
        (sink(**BEHIND), 5.0, "delivering, 12,000 posts behind since 09:02 UTC, falling further behind"),
        (sink(**BEHIND, caught_up_in_seconds=180.0), -66.0,
         "delivering, 12,000 posts behind since 09:02 UTC, catching up, about 3 min"),
        (sink("unavailable", **BEHIND, last_error="HTTP 503"), 5.0,
         "not available: HTTP 503, 12,000 posts behind since 09:02 UTC"),
        (sink("misconfigured", last_error="no such topic"), None, "misconfigured: no such topic"),
        (sink("rejecting", last_error="HTTP 400"), None, "rejects everything: HTTP 400"),
        (sink("paused", backlog_posts=1, behind_since=NOW - MINUTE, paused_since=NOW - 1440 * MINUTE), 1.0,
         "paused since 2026-01-15 10:05 UTC, 1 post behind since 10:04 UTC"),
        (sink("stopped"), None, "stopped"),
        (sink(backlog_posts=None), None, "delivering, backlog not known"),
        (sink(blocked=[blocked("index bizevents-1")], blocked_destinations=1), None,
         "delivering; waits: index bizevents-1 takes nothing (index closed)"),
        (sink(blocked=[blocked("topic a"), blocked("topic b")], blocked_destinations=3), None,
         "delivering; waits: topic a and 2 other destinations take nothing (index closed)"),
    ],
)  # fmt: skip
def test_a_state_is_said_in_words(state: dict[str, Any], slope: float | None, expected: str) -> None:
    """With what it waits for, how far it is behind, and when it has caught up."""
    assert words(state, slope, NOW) == expected


def test_long_errors_are_cut_in_words() -> None:
    """A field has more of them."""
    assert len(words(sink("unavailable", last_error="x" * 100_000), None, NOW)) < 300
    assert len(words(sink(blocked=[blocked("a", "x" * 100_000)], blocked_destinations=1), None, NOW)) < 300


def test_a_backlog_that_does_not_shrink_has_no_end() -> None:
    """Nor has one whose size or trend is not known."""
    assert caught_up_in(600, -10.0) == 60.0
    assert [caught_up_in(600, 0.0), caught_up_in(600, 3.0), caught_up_in(600, None), caught_up_in(None, -1.0)] == [None] * 4
    assert caught_up_in(0, -10.0) is None
