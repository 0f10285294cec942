"""The time series: buckets of a period, in the definition's time zone, and the figures of the flows in each."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import cast
from zoneinfo import ZoneInfo

from btfeed.flow.clauses import to_ms
from btfeed.flow.definition import BUCKETS, Definition
from btfeed.flow.duck import Database
from btfeed.flow.numbers import figures, nothing
from btfeed.flow.report import Bucket, Figures, Period, Series
from btfeed.flow.states import Frame
from btfeed.flow.values import money

FEWEST = 24
"""Buckets that a series should have at least."""
MOST = 10_000
"""The most buckets of a series. A longer period has no series."""
LOCAL = 6 * 3_600_000
"""Buckets of this width and wider begin by the clock of the time zone; narrower ones do in all zones alike."""
MONDAY = datetime(1970, 1, 5)  # noqa: DTZ001 - of any time zone


def width(definition: Definition, begin: int, end: int) -> int:
    """Of the definition, or the widest that gives at least 24 buckets, in milliseconds."""
    if definition.bucket is not None:
        return to_ms(definition.bucket)
    widths = [seconds * 1000 for seconds in BUCKETS.values()]
    return max((each for each in widths if (end - begin) >= FEWEST * each), default=widths[0])


def boundaries(begin: int, end: int, bucket: int, zone: ZoneInfo) -> list[int]:
    """Where buckets of this width begin that together cover [begin, end), and where the last one ends."""
    if bucket < LOCAL:
        first = begin // bucket * bucket
        return list(range(first, first + -(-(end - first) // bucket) * bucket + 1, bucket))
    local = datetime.fromtimestamp(begin / 1000, UTC).astimezone(zone).replace(tzinfo=None)
    step = timedelta(milliseconds=bucket)
    time = MONDAY + (local - MONDAY) // step * step
    found: list[int] = []
    while not found or found[-1] < end:
        moment = round(time.replace(tzinfo=zone).timestamp() * 1000)
        if not found or moment > found[-1]:  # clocks that are put forward pass over some
            found.append(moment)
        time += step
    return found


def series(
    database: Database, definition: Definition, frame: Frame, period: Period, first: int | None, bucket: int | None = None
) -> Series:
    """Of the flows in `picked`.

    first   the time of the oldest record
    bucket  the width; None: of the definition, or as fits the period

    Raises FlowError.
    """
    by = period.by
    found = database.one(f"SELECT min({by}) AS first, max({by}) AS last FROM picked")
    begin = frame.begin if frame.begin is not None else found["first"]
    end = min(frame.end, frame.as_of + 1) if frame.end is not None else found["last"] and found["last"] + 1
    if begin is None or end is None or begin >= end:
        return Series(bucket or to_ms(definition.bucket or 60), ())
    bucket = bucket or width(definition, begin, end)
    if (end - begin) // bucket > MOST:
        return Series(bucket, ())
    limits = boundaries(begin, end, bucket, ZoneInfo(definition.timezone))
    database.run(f"CREATE OR REPLACE VIEW bucketed AS {_bucketed(definition, by, bucket, limits)}")
    by_bucket = figures(database, definition, money(database, definition, "bucket", "bucketed"), "bucket", "bucketed")
    buckets = list(pairwise(limits))
    empty = nothing(database, definition) if len(by_bucket) < len(buckets) else None
    since = max(each for each in (frame.begin, first) if each is not None)
    until = min(each for each in (frame.end, frame.as_of + 1, period.mature_before) if each is not None)
    rows = []
    for low, high in buckets:
        there = by_bucket.get(low) or cast("Figures", empty)
        rows.append(Bucket(low, high, low < since or high > until or there.counts.open > 0, there))
    return Series(bucket, tuple(rows))


def _bucketed(definition: Definition, by: str, bucket: int, limits: list[int]) -> str:
    """`picked` with where each flow's bucket begins."""
    if bucket >= LOCAL and definition.timezone != "UTC":  # where days differ in length
        return f"SELECT * FROM picked ASOF JOIN (SELECT unnest({limits}::BIGINT[]) AS bucket) ON picked.{by} >= bucket"
    since = f"({by} - {limits[0]})"
    return f"SELECT *, {limits[0]} + {since} // {bucket} * {bucket} AS bucket FROM picked"
