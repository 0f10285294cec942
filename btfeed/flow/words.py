"""How text and page write numbers, rates, times and moments."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

NOTHING = "-"
"""In place of a number that can't be told."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_A_DAY = timedelta(days=1)
_TIMES = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"))


def number(value: float | None) -> str:
    """Whole, with commas."""
    return NOTHING if value is None else f"{value:,.0f}"


def decimal(value: float | None) -> str:
    """With one decimal."""
    return NOTHING if value is None else f"{value:,.1f}"


def money(value: float | None, unit: str = "") -> str:
    """An amount: whole from 1,000 on, else with two decimals."""
    if value is None:
        return NOTHING
    return f"{value:,.0f} {unit}".rstrip() if abs(value) >= 1000 else f"{value:,.2f} {unit}".rstrip()


def percent(rate: float | None) -> str:
    """A rate from 0 to 1, as 10.8 %. What is not 0 and not 1 is not shown as these."""
    if rate is None:
        return NOTHING
    shown = f"{rate * 100:.1f}"
    if shown == "0.0" and rate > 0:
        return "< 0.1 %"
    if shown == "100.0" and rate < 1:
        return "> 99.9 %"
    return f"{shown} %"


def time(milliseconds: float | None) -> str:
    """A time in its largest unit, as 1.8 h."""
    if milliseconds is None:
        return NOTHING
    for length, unit in _TIMES:
        if abs(milliseconds) >= length:
            return f"{milliseconds / length:,.1f} {unit}"
    return f"{milliseconds:.0f} ms"


def moment(at: float | None, zone: ZoneInfo | None = None) -> str:
    """Milliseconds since the epoch, to the minute, as 2026-03-14 23:58 UTC."""
    if at is None:
        return NOTHING
    there = EPOCH + timedelta(milliseconds=at)
    if zone and datetime.min.replace(tzinfo=UTC) + _A_DAY < there < datetime.max.replace(tzinfo=UTC) - _A_DAY:
        there = there.astimezone(zone)  # the first and the last day may be in no year elsewhere
    return f"{there.replace(tzinfo=None).isoformat(' ', 'minutes')} {there.tzname()}"


def tick(at: float, step: float, zone: ZoneInfo) -> str:
    """A moment beside an axis: the date, and the time of day if `step`, in milliseconds, is less than a day."""
    there = datetime.fromtimestamp(at / 1000, zone)
    return f"{there:%Y-%m-%d}" if step >= _TIMES[0][0] else f"{there:%m-%d %H:%M}"


def exact(at: float) -> str:
    """The same in RFC 3339, with milliseconds, in UTC: as JSON has it."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def change(now: float | None, before: float | None, relative: float | None, points: bool, noise: bool | None) -> str:
    """A change against an earlier period, as +3.1 % or +0.4 points, and whether it is chance."""
    if relative is None or now is None or before is None:
        return ""
    shown = f"{relative * 100:+.1f} {'points' if points else '%'}"
    return f"{shown} (noise)" if noise else shown
