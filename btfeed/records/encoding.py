"""How a record writes the values of the feed."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from btfeed.records.schema import Encoding

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - all times here are UTC, and naive ones format faster


def rfc3339(milliseconds: int) -> str:
    """Milliseconds since the epoch as `2013-01-16T18:19:17.840Z`. Raises ValueError outside the years 1 to 9999."""
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        raise ValueError(f"{milliseconds} is outside the years 1 to 9999") from None
    return moment.isoformat(timespec="milliseconds") + "Z"


def nanoseconds(milliseconds: float) -> int:
    """Rounds half to even. Raises ValueError for NaN, infinity and results that do not fit in 64 bits."""
    try:
        rounded = round(milliseconds * 1_000_000)
    except OverflowError:
        raise ValueError("infinite") from None
    if not -(2**63) <= rounded < 2**63:
        raise ValueError(f"{rounded} does not fit in 64 bits")
    return rounded


def finite(number: float) -> float:
    """Raises ValueError for NaN and infinity, which JSON does not have."""
    if not isfinite(number):
        raise ValueError(f"{number} is not a JSON number")
    return number


def outcome(failed: bool) -> str:
    return "failure" if failed else "success"


def text(value: str | bytes) -> str:
    """Replaces bytes that are not UTF-8 by U+FFFD. protobuf returns a string as bytes if it is not valid UTF-8."""
    return value if isinstance(value, str) else value.decode(errors="replace")


def texts(values: Iterable[str | bytes]) -> list[str]:
    return [text(value) for value in values]


def count_invalid_utf8(strings: Iterable[str | bytes]) -> int:
    """The number of strings that are not valid UTF-8."""
    return sum(isinstance(string, bytes) for string in strings)


ENCODERS: dict[Encoding, Callable[[Any], Any]] = {
    "timestamp": rfc3339,
    "nanoseconds": nanoseconds,
    "decimal": str,
    "outcome": outcome,
    "string": text,
    "number": finite,
    "integer": int,
    "boolean": bool,
    "strings": texts,
    "measures": finite,
    "dimensions": text,
}
"""From a value of the feed to the JSON value of a record. Raises ValueError if a record cannot hold the value."""
