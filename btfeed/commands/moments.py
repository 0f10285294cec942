"""Points in time, and times, as users write them on the command line."""

from datetime import UTC, datetime

from pydantic import TypeAdapter, ValidationError

from sinks.settings import Seconds

_seconds = TypeAdapter(Seconds)


class TooLongError(ValueError):
    """A time that is written well, and longer than times may be."""


def moment(text: str, now: int) -> int:
    """Milliseconds since the epoch, from "2026-01-16T10:05" (UTC unless it has an offset) or "24h" (before `now`).

    Raises ValueError.
    """
    try:
        written = datetime.fromisoformat(text)
    except ValueError:
        try:
            return now - round(seconds(text) * 1000)
        except TooLongError:
            raise
        except ValueError:
            raise ValueError(f"invalid time {text!r}: write 2026-01-16T10:05, or 24h for 24 hours ago") from None
    return round((written if written.tzinfo else written.replace(tzinfo=UTC)).timestamp() * 1000)


def seconds(text: str) -> float:
    """Seconds, from "500ms" or "1m30s". Raises ValueError."""
    try:
        return _seconds.validate_python(text)
    except ValidationError as error:
        told = error.errors()[0]["msg"].removeprefix("Value error, ")
        if "at most" in told:
            raise TooLongError(f"{text!r} is too long: {told}") from None
        raise ValueError(f"invalid time {text!r}: write 500ms, 2s, 1m30s or 7d") from None
