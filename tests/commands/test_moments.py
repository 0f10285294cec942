"""Times on the command line."""

import pytest

from btfeed.commands.moments import moment


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1970-01-01T00:01", 60_000), ("1970-01-01T01:00:00.5+01:00", 500), ("2m", 880_000), ("1970-01-02", 86_400_000)],
)
def test_a_moment_is_a_date_or_how_long_ago(text: str, expected: int) -> None:
    """Dates are in UTC unless they have an offset."""
    assert moment(text, 1_000_000) == expected
