"""What a report is asked for. Moments are milliseconds since the epoch, as btfeed/commands/moments.py reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["converted", "late", "ended", "lost", "open"]
STATES: tuple[State, ...] = ("converted", "late", "ended", "lost", "open")
DROPPED: tuple[State, ...] = ("ended", "lost")
DAY = 86_400_000
WEEK = 7 * DAY


@dataclass(frozen=True, slots=True)
class Source:
    """Where records are, as local files. What is in other formats or elsewhere is spooled to NDJSON first.

    kind     what it was before, as reports tell it: "files", "elasticsearch" ...
    ndjson   files with a record a line; their ends say whether they are compressed (.gz, .zst)
    parquet  files with a column for each field, of the same names
    now      the moment that a report looks from if its options have none; None: the newest among the records that fit
    """

    kind: str
    ndjson: Sequence[Path] = ()
    parquet: Sequence[Path] = ()
    now: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which flows.

    begin, end  the period [begin, end); None: no bound
    as_of       the moment at which it looks: later records do not exist. None: see `Source.now`
    by          a flow belongs to a period by its start, or by when it was decided
    where       (dimension, value): only flows that have all of these; "(unknown)" for those without a value
    mature      only flows that are old enough to be over in all probability
    """

    begin: int | None = None
    end: int | None = None
    as_of: int | None = None
    by: Literal["start", "decided"] = "start"
    where: tuple[tuple[str, str], ...] = ()
    mature: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions(Selection):
    """A report of the flows of a selection.

    compare  with the period before, with the same a week before, with one N milliseconds before, or not at all; None:
             a week before where the records go back so far and the period is shorter than a week, else the period before
    covered  compare only where the records go back to the beginning of the earlier period
    split    one or two dimensions each
    lists    how many flows each list has
    """

    compare: Literal["previous", "week", "none"] | int | None = None
    covered: bool = False
    split: tuple[tuple[str, ...], ...] = ()
    lists: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions(Selection):
    """A list of the flows of a selection.

    states      only flows in one of these; empty: all
    at          only flows whose furthest step is this
    idle        only flows whose last event is at least that many milliseconds before `as_of`
    exceptions  only flows with an exception
    limit       the most flows; None: all
    sort        "start" and "last" begin with the newest, "value" and "exceptions" with the largest
    """

    states: tuple[State, ...] = ()
    at: str | None = None
    idle: int | None = None
    exceptions: bool = False
    limit: int | None = None
    sort: Literal["start", "last", "value", "exceptions"] = "start"
