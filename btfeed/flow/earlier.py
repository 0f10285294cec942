"""Which earlier period a report is compared with, and from which moment that one looks."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from btfeed.flow.definition import Definition
from btfeed.flow.options import DAY, WEEK, ReportOptions
from btfeed.flow.words import EPOCH

UNCOVERED = 0.01
"""The share of a period before the oldest record up to which it is compared: the first flow comes a little later."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """how, shift: see Comparison. options: with the bounds of the earlier period. as_of: the moment that it looks from."""

    how: str
    shift: int
    options: ReportOptions
    as_of: int


def earlier(definition: Definition, options: ReportOptions, as_of: int | None, first: int | None) -> Earlier | None:
    """None: the period is not compared.

    A period of whole days of the definition's time zone is compared with whole days of it, of which one may have 23 or 25
    hours.

    first  time of the oldest record
    """
    begin, end = options.begin, options.end
    if options.compare == "none" or begin is None or as_of is None or first is None:
        return None
    zone = ZoneInfo(definition.timezone)
    whole = all(_begins_a_day(at, zone) for at in (begin, end) if at is not None)
    length = (as_of + 1 if end is None else end) - begin
    if whole and end is not None:
        length = round(length / DAY) * DAY
    found = _wanted(options.compare, begin, length, first)
    if found is None:
        return None
    how, shift = found
    by_clock = zone if whole and shift % DAY == 0 else None
    then = replace(options, begin=_back(begin, shift, by_clock), end=None if end is None else _back(end, shift, by_clock))
    if then.begin is None or (options.covered and first > then.begin + UNCOVERED * length):
        return None
    return Earlier(how, begin - then.begin, then, _back(as_of, shift, by_clock))


def _wanted(compare: str | int | None, begin: int, length: int, first: int) -> tuple[str, int] | None:
    """How a period is compared, and how much earlier the other is, whether or not records are of it."""
    if isinstance(compare, int):
        return "shift", compare
    if compare is None and first >= begin:
        return None  # there is nothing to compare with
    if compare == "week" or (compare is None and length < WEEK and first <= begin - WEEK):
        return "week", WEEK
    return ("previous", length) if length > 0 else None


def _begins_a_day(at: int, zone: ZoneInfo) -> bool:
    try:
        return _by_clock(at, zone).time() == time()
    except OverflowError:
        return False  # in no year of this zone


def _back(at: int, shift: int, zone: ZoneInfo | None) -> int:
    """That much earlier; by the clock of a zone, if there is one."""
    if zone is not None:
        try:
            then = _by_clock(at, zone) - timedelta(milliseconds=shift)
            return (then.astimezone(UTC) - EPOCH) // timedelta(milliseconds=1)
        except OverflowError:
            pass  # in no year, and so in no day
    return at - shift


def _by_clock(at: int, zone: ZoneInfo) -> datetime:
    """Milliseconds since the epoch as a time of the zone, whose differences are those that its clock shows."""
    return (EPOCH + timedelta(milliseconds=at)).astimezone(zone)
