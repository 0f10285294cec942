"""How the page writes numbers and times. Times are milliseconds since the epoch; the page shows them in UTC, as logs do."""

from datetime import UTC, datetime

from btfeed.telemetry import wording

DAY = 86_400
_UNITS = (("d", DAY), ("h", 3_600), ("min", 60), ("s", 1))


def number(value: float | None) -> str:
    """With commas: 12,000; small ones with a decimal: 0.2."""
    if value is None:
        return "–"
    return f"{value:,.1f}" if 0 < value < 10 and value != int(value) else f"{value:,.0f}"


def count(value: int, noun: str, plural: str = "") -> str:
    """A number with its noun in singular or plural, which ends in s unless it is given."""
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {plural or noun + 's'}"


def duration(seconds: float | None) -> str:
    """A time with its one or two largest units, such as 3 h 12 min; below a second in ms."""
    if seconds is None:
        return "–"
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "< 1 ms"
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0 ", " ")
    return wording.duration(seconds)


def ago(time: int, now: int) -> str:
    """How long ago that was, in one unit: 3 s ago."""
    seconds = max(0, now - time) // 1000
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return "just now"


def moment(time: str) -> int | None:
    """The time of a record's timestamp, such as 2026-01-16T10:05:11.482Z; None if it is none."""
    try:
        return round(datetime.fromisoformat(time).timestamp() * 1000)
    except ValueError:
        return None


def iso(time: int) -> str:
    """For the attribute datetime."""
    return _moment(time).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock(time: int, now: int) -> str:
    """The time of day, with the date if it is not today's: 10:05:11 UTC."""
    moment = _moment(time)
    same_day = moment.date() == _moment(now).date()
    return moment.strftime("%H:%M:%S UTC" if same_day else "%Y-%m-%d %H:%M UTC")


def short_clock(time: int) -> str:
    return _moment(time).strftime("%H:%M")


def sentence(text: str) -> str:
    """Begins with a capital letter and ends with a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", wording.CUT)) else f"{text}."


def _moment(time: int) -> datetime:
    return datetime.fromtimestamp(time / 1000, UTC)
