"""How a value of the feed is written in a record."""

from collections.abc import Callable, Iterable
from datetime import date
from functools import lru_cache
from typing import Any

from btfeed.records.schema import Encoding

Convert = Callable[[Any], Any]
"""From a field's value to what the record says. Raises ValueError where the field is to be left out."""

_EPOCH = date(1970, 1, 1).toordinal()


def rfc3339(milliseconds: int) -> str:
    """The moment as `2013-01-16T18:19:17.840Z`. ValueError outside the years 1 to 9999."""
    seconds, rest = divmod(milliseconds, 1000)
    try:
        return f"{_second(seconds)}.{rest:03}Z"
    except (OverflowError, ValueError):
        raise ValueError(f"{milliseconds} is outside the years 1 to 9999") from None


@lru_cache(maxsize=10_000)
def _second(seconds: int) -> str:
    """Seconds since the epoch as `2013-01-16T18:19:17`; occurrences of one post share few of them."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{_day(days)}T{hour:02}:{minute:02}:{second:02}"


@lru_cache(maxsize=1_000)
def _day(days: int) -> str:
    """Days since the epoch as `2013-01-16`. OverflowError or ValueError outside the calendar."""
    return date.fromordinal(_EPOCH + days).isoformat()


def nanoseconds(milliseconds: float) -> int:
    """Rounded half to even. ValueError where that is no number of 64 bits."""
    try:
        rounded = round(milliseconds * 1_000_000)
    except OverflowError:
        raise ValueError("infinite") from None
    if not -(2**63) <= rounded < 2**63:
        raise ValueError("out of range")
    return rounded


def text(value: str | bytes) -> str:
    """protobuf hands out bytes where a string is not UTF-8; each bad one becomes U+FFFD."""
    return value if isinstance(value, str) else value.decode(errors="replace")


def not_utf8(strings: Iterable[str | bytes | None]) -> int:
    """How many of them are not UTF-8."""
    return sum(type(string) is bytes for string in strings)


ENCODERS: dict[Encoding, Convert] = {
    "timestamp": rfc3339,
    "nanoseconds": nanoseconds,
    "decimal": str,
    "outcome": lambda failed: "failure" if failed else "success",
    "strings": lambda values: [text(value) for value in values],
}
"""What is done to values before JSON; those of other encodings are written as they are."""
