"""Rates and the journal's trend, from answers of /status."""

from typing import Any

import pytest

from btfeed.telemetry.trends import RATE_WINDOW, TREND_WINDOW, JournalTrend, Sample, Trends

MIB = 2**20


def status(at: float, *, posts: int = 0, left: int = 0, used: int = 0, free: int = 1000 * MIB) -> Any:
    """An answer at `at` seconds of uptime, with `used` bytes in the journal, of which `left` are undelivered."""
    counts = {"posts": posts, "journal_bytes": used, "journal_undelivered_bytes": left}
    counts |= {"journal_limit_bytes": 100 * MIB, "journal_free_bytes": free}
    return {"uptime_seconds": at, "counts": counts}


def trends(*statuses: dict[str, Any]) -> Trends:
    found = Trends()
    for each in statuses:
        found.add(Sample(each["uptime_seconds"], each))
    return found


def posts(status: dict[str, Any]) -> float:
    return float(status["counts"]["posts"])


def test_a_rate_is_that_of_the_last_seconds() -> None:
    """It is not known from one answer. Older ones than RATE_WINDOW do not count."""
    assert trends(status(0)).rate(posts) is None
    assert trends(status(0), status(2, posts=30)).rate(posts) == 15
    late = [status(100 + at, posts=1000 + 10 * at) for at in range(int(RATE_WINDOW) + 1)]
    assert trends(status(0), *late).rate(posts) == 10


def test_a_restart_begins_anew() -> None:
    """The counts of the process before are not compared with those of the new one."""
    found = trends(status(50, posts=500))
    found.add(Sample(60, status(1, posts=2)))
    assert found.rate(posts) is None
    found.add(Sample(62, status(3, posts=6)))
    assert found.rate(posts) == 2


def test_a_growing_backlog_fills_the_journal() -> None:
    """What sinks have had makes room. The disk counts, if that has less room than max_size leaves."""
    found = trends(status(0, used=90 * MIB), status(10, used=100 * MIB, left=20 * MIB)).journal()
    assert found == JournalTrend(1.0, 20 * MIB, full_in=40)  # 80 MiB at 2 MiB/s
    found = trends(status(0, used=10 * MIB, free=0), status(10, used=10 * MIB, left=2 * MIB, free=0)).journal()
    assert found == JournalTrend(0.1, 2 * MIB, full_in=40)  # 8 MiB of delivered posts at 0.2 MiB/s


def test_a_shrinking_backlog_empties_the_journal() -> None:
    """In the time that it takes at this rate."""
    found = trends(status(0, used=100 * MIB, left=50 * MIB), status(10, used=100 * MIB, left=40 * MIB)).journal()
    assert found == JournalTrend(1.0, 40 * MIB, empty_in=40)


def test_there_is_no_trend_at_first_nor_without_a_change() -> None:
    """Two answers in a row say little."""
    early = trends(status(0, used=MIB), status(1, used=MIB, left=MIB)).journal()
    late = trends(status(0, used=MIB, left=MIB), status(10, used=MIB, left=MIB)).journal()
    assert early == late == JournalTrend(0.01, MIB)


@pytest.mark.parametrize("missing", ["journal_limit_bytes", "journal_undelivered_bytes"])
def test_an_earlier_server_has_no_trend(missing: str) -> None:
    """It does not say how much room there is."""
    answer = status(0, used=MIB)
    del answer["counts"][missing]
    assert trends(answer).journal() is None


def test_answers_are_forgotten() -> None:
    """After a minute, so that a server may be watched for weeks."""
    found = trends(*(status(at) for at in range(1000)))
    assert len(found._samples) == TREND_WINDOW + 1
