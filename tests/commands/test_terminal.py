"""Summaries and progress as text."""

import pytest

from btfeed.commands.terminal import lines, progress
from btfeed.traffic.sending import Outcome, ScheduledPost, Sender, SendSummary
from tests.support.clock import FakeClock
from tests.traffic.test_sending import FakeTarget


def summary(*outcomes: Outcome) -> SendSummary:
    found = SendSummary(seconds=2.0)
    for outcome in outcomes:
        found.add(ScheduledPost(b"", occurrences=10), outcome)
    return found


def test_a_summary_says_what_became_of_the_posts() -> None:
    """Accepted posts come first, then the others by reason, then retries."""
    found = summary(Outcome(200), Outcome(200), Outcome(400, "400 Bad"), Outcome(None, "lost"))
    found.latencies.add(0.001)
    found.retries = 2
    assert list(lines(found)) == [
        "2 of 4 posts accepted (20 occurrences) in 2.00 s: 1 posts/s, 10 occurrences/s",
        "latency: p50 1.0 ms, p99 1.0 ms",
        "1 post refused: 400 Bad",
        "1 post with unknown outcome: lost",
        "2 retries",
    ]


def test_a_summary_of_one_post_is_singular() -> None:
    """Without a server there are no latencies."""
    assert list(lines(summary(Outcome(200)), "written to a.btposts")) == [
        "1 post written to a.btposts (10 occurrences) in 2.00 s: 0 posts/s, 5 occurrences/s"
    ]


def test_the_bar_shows_the_figures_so_far(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """They are updated at intervals, and at the end."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    sender = Sender(FakeTarget())
    with progress(sender, lambda: 3, 4, FakeClock()) as update:
        for outcome in (Outcome(200), Outcome(400, "400 Bad"), Outcome(None, "lost")):
            sender.summary.add(ScheduledPost(b""), outcome)
            update()
    shown = capsys.readouterr().err
    assert "sending" in shown
    assert "1 post, " in shown
    assert ", 1 refused, 1 unknown" in shown
