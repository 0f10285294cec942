"""How a value of the feed is written in a record."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from btfeed.schema import Encoding

Convert = Callable[[Any], Any]
"""From a field's value to what the record says. Raises ValueError where the field is to be left out."""

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - all of it is UTC, and what is formatted says so itself


def rfc3339(milliseconds: int) -> str:
    """The moment as `2013-01-16T18:19:17.840Z`. ValueError outside the years 1 to 9999."""
    seconds, rest = divmod(milliseconds, 1000)
    try:
        return f"{_second(seconds)}.{rest:03}Z"
    except OverflowError:
        raise ValueError(f"{milliseconds} is outside the years 1 to 9999") from None


@lru_cache(maxsize=10_000)
def _second(seconds: int) -> str:
    """Seconds since the epoch as `2013-01-16T18:19:17`; occurrences of one post share few of them."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


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
