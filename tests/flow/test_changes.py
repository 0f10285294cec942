"""Changes between two periods, and whether they are more than chance."""

import pytest

from btfeed.flow.changes import count, plain, share


def test_a_fall_is_a_fall() -> None:
    """Of what it was before: from 100 to 80 are -20 %, not -25 % and not +25 %."""
    change = count(80, 100)
    assert change.change == pytest.approx(-0.2)
    assert change.z == pytest.approx(-20 / 180**0.5)
    assert change.noise
    assert not count(800, 1000).noise


def test_a_rate_changes_in_points_and_by_two_proportions() -> None:
    """20 % of 1,000 against 25 % of 1,000: pooled 22.5 %, which gives a standard deviation of 1.87 points."""
    change = share(200, 1000, 250, 1000)
    assert change.points
    assert change.change == pytest.approx(-0.05)
    assert change.z == pytest.approx(-0.05 / (0.225 * 0.775 * 2 / 1000) ** 0.5)
    assert not change.noise
    assert share(20, 100, 25, 100).noise


def test_of_nothing_no_change_can_be_told() -> None:
    """Neither of a count, nor of a rate, nor of a median that is not there."""
    assert (count(5, 0).change, count(0, 0).noise) == (None, True)
    assert (share(1, 2, 0, 0).change, share(1, 2, 0, 0).noise) == (None, None)
    assert (share(0, 5, 0, 5).z, share(0, 5, 0, 5).noise) == (0.0, True)
    assert (plain(None, 3.0).change, plain(3.0, None).change, plain(3.0, 0.0).change) == (None, None, None)
    assert (plain(3.0, 2.0).change, plain(3.0, 2.0).noise) == (0.5, None)
