"""How the page writes numbers and times."""

import pytest

from btfeed.page.wording import ago, clock, count, duration, moment, number, sentence

NOW = 1_768_557_911_482  # 2026-01-16T10:05:11Z


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0, "0"), (0.2, "0.2"), (3.0, "3"), (9.96, "10.0"), (212.4, "212"), (12_000, "12,000")]
)
def test_numbers_have_commas_and_small_ones_a_decimal(value: float | None, text: str) -> None:
    """So that they are read at a glance."""
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 s"),
        (0.0004, "< 1 ms"),
        (0.22, "220 ms"),
        (1.26, "1.3 s"),
        (9.97, "10 s"),
        (59.7, "1 min"),
        (180, "3 min"),
        (11_520, "3 h 12 min"),
        (86_400 + 60, "1 d"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float | None, text: str) -> None:
    """The largest ones."""
    assert duration(seconds) == text


def test_times_are_utc_and_have_a_date_if_it_is_another_day() -> None:
    """With the time since then in one unit. A time ahead of the server's clock is now."""
    assert clock(NOW, NOW) == "10:05:11 UTC"
    assert clock(NOW - 86_400_000, NOW) == "2026-01-15 10:05 UTC"
    assert (moment("2026-01-16T10:05:11.482Z"), moment("never")) == (NOW, None)
    assert [ago(NOW - ms, NOW) for ms in (-5, 999, 3_000, 7_200_000)] == ["just now", "just now", "3 s ago", "2 h ago"]


def test_counts_have_commas_and_texts_end_as_sentences() -> None:
    """Whoever wrote them."""
    assert [count(1, "post"), count(12_000, "post")] == ["1 post", "12,000 posts"]
    assert [sentence("no node available"), sentence("Cut off…")] == ["No node available.", "Cut off…"]
