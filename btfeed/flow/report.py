"""The numbers of a report, as its JSON has them. What each is, docs/flow.md defines.

Durations are in milliseconds, moments are milliseconds since the epoch, rates are from 0 to 1, None where nothing can be
told (0 of 0). A field that is added does not change VERSION, one that changes its meaning does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from btfeed.flow.graph import Way
from btfeed.flow.options import State

VERSION = 1
UNKNOWN = "(unknown)"
"""The value of a dimension that a flow's records do not have."""
OTHERS = "(others)"
"""The part of a split that has what is not among the largest."""


UNFINISHED = (
    "Whether numbers of the bucket are not whole: it is not wholly in the period, not wholly between the oldest record and"
    " as_of (with mature: and mature_before), or some of its flows are open and can still change."
)


@dataclass(frozen=True, slots=True)
class Period:
    """begin, end: None for no bound. mature_before: only flows that began before are counted; None: all are."""

    begin: int | None
    end: int | None
    by: str
    mature: bool
    mature_before: float | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """What was read. Of all records of the source, whatever the period.

    records       lines, or rows
    matched       those that are a step, an exception of one, or an end; with a time
    unreadable    no JSON object, cut, or without a time
    uncorrelated  of those matched: without the field that ties them together
    duplicates    of those matched: a record with the same event.id and the same correlation was counted already
    first, last   times of the oldest and the newest of those matched
    missing       fields that the definition names, and that none of those matched has
    no_numbers    of those matched: with a value that is no number, or one of more than 18 digits, so that it is missing
    """

    kind: str
    records: int
    matched: int
    unreadable: int
    uncorrelated: int
    duplicates: int
    first: int | None
    last: int | None
    missing: tuple[str, ...] = ()
    no_numbers: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Flows.

    headless    without a start, with an event in the period; in no other number. None of a part or a bucket
    carried_in  begun before the period, with an event in it; in no other number. None of a part or a bucket
    disordered  with an event of a step that they have not reached, since it came out of order
    resumed     begun again after their goal, or gone on after a pause that is longer than any `lost_after`. None of a part
                or a bucket
    """

    started: int
    converted: int
    late: int
    ended: int
    lost: int
    open: int
    headless: int | None = None
    carried_in: int | None = None
    disordered: int = 0
    resumed: int | None = None

    @property
    def dropped(self) -> int:
        return self.ended + self.lost


@dataclass(frozen=True, slots=True)
class Conversion:
    """converted / started, and its 95 % interval by Wilson."""

    rate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Spread:
    """Times of n flows, or gaps between n pairs of events. negative: how many were left out since they are below 0."""

    n: int
    median: float | None
    p95: float | None
    average: float | None
    least: float | None
    most: float | None
    negative: int = 0


@dataclass(frozen=True, slots=True)
class Amount:
    """What flows are worth: known for `flows` of them, and about so much for `about_flows` further ones, whose value is not
    known; None where it can't be estimated.

    unknown_flows  further ones, that came as far as those that are estimated: no flow of their kind converted with a value
    """

    known: float
    flows: int
    about: float | None = None
    about_flows: int = 0
    unknown_flows: int = 0


@dataclass(frozen=True, slots=True)
class Value:
    """won: over converted flows. average: of those of them that have a value, which are `valued`. late: neither won nor
    lost."""

    label: str
    unit: str
    won: float
    valued: int
    average: float | None
    lost: Amount
    at_risk: Amount
    lost_with_exceptions: Amount
    late: Amount


@dataclass(frozen=True, slots=True)
class Exceptions:
    """What exceptions cost: flows with one and without any, and how many of each dropped.

    exceptions, attempts  events that are exceptions, and how many there are in all
    """

    exceptions: int
    attempts: int
    rate: float | None
    success: float | None
    flows: int
    flows_dropped: int
    others: int
    others_dropped: int


@dataclass(frozen=True, slots=True)
class Step:
    """A step of all flows.

    before           names of the steps that `of_before` and `time` are told of; empty: a flow begins here
    of_before        reached / flows that reached any of `before`; of an optional step: the share that took it
    late             of a goal: flows of `reached` that came to a goal too late, all others have converted; else 0
    drop_off         dropped here and at optional steps after it, of `reached`
    time             from the first of `before` that a flow reached
    target, beyond   the time that is promised, and the share of `time` above it
    visits           events of the step
    more_than_once   share of `reached` that have at least two of them; times_each: visits / reached
    distribution     flows that reached it with 1, 2, 3, 4, and with 5 or more events of it
    disordered       flows with an event of the step, that have not reached it
    """

    name: str
    optional: bool
    goal: bool
    before: tuple[str, ...]
    reached: int
    of_start: float | None
    of_before: float | None
    dropped: int
    open: int
    late: int
    drop_off: float | None
    time: Spread
    target: float | None
    beyond: float | None
    visits: int
    more_than_once: float | None
    times_each: float | None
    distribution: tuple[int, ...]
    exceptions: int
    attempts: int
    exception_rate: float | None
    success_rate: float | None
    disordered: int


@dataclass(frozen=True, slots=True)
class Time:
    """The time from one step to another: of neighbours (name "A to B"), and of pairs that the definition names."""

    name: str
    begin: str
    to: str
    spread: Spread


@dataclass(frozen=True, slots=True)
class Transition:
    """Neighbouring events of flows, first one of `begin`, then one of `to`.

    gap    from the end of the first to the start of the second
    way    how the definition says that; None: it does not
    flows  three flows that went so
    """

    begin: str
    to: str
    n: int
    gap: Spread
    way: Way | None
    flows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of a set of flows. duration: from the start to the goal, of converted flows."""

    counts: Counts
    conversion: Conversion
    duration: Spread
    value: Value | None
    exceptions: Exceptions
    steps: tuple[Step, ...]
    times: tuple[Time, ...]


@dataclass(frozen=True, slots=True)
class Bucket:
    """The flows of a part of the period."""

    begin: int
    end: int
    unfinished: bool = field(metadata={"description": UNFINISHED})
    figures: Figures


@dataclass(frozen=True, slots=True)
class Series:
    """bucket: the width in milliseconds. Days and weeks begin in the definition's time zone, so a day may have 23 hours."""

    bucket: int
    rows: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """The flows that have these values of the dimensions that a report is split by."""

    values: tuple[str, ...]
    figures: Figures
    transitions: tuple[Transition, ...]


@dataclass(frozen=True, slots=True)
class ListedFlow:
    """One flow. last: the time of its last event. exceptions: how many of its events are."""

    id: str
    start: int
    state: State
    furthest: str
    last: int
    decided: int | None
    value: float | None
    exceptions: int
    dimensions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """A number now and before.

    change  (now - before) / before; of rates now - before, which is `points`
    z       how many standard deviations that is; None: not told
    noise   whether it is likely to be chance: |z| < 2
    """

    now: float | None
    before: float | None
    change: float | None
    points: bool = False
    z: float | None = None
    noise: bool | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same numbers of an earlier period, as it stood then.

    how      "previous", "week" or "shift"
    shift    how much earlier it begins
    changes  name of the number, such as "conversion" or "steps.Cart.reached" -> its change
    """

    how: str
    shift: int
    period: Period
    as_of: int
    figures: Figures
    series: Series
    changes: Mapping[str, Change]


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report.

    definition  digest of the definition: equal where its numbers mean the same
    usual       the time within which 99 % of converted flows come to the goal, or the definition's window; see `mature`
    splits      names of the dimensions, joined by a comma -> the parts, the largest first
    lists       "dropped_with_exception", "open_longest_idle", "largest_lost" -> flows
    """

    flow: str
    definition: str
    as_of: int | None
    period: Period
    source: Read
    usual: float | None
    figures: Figures
    transitions: tuple[Transition, ...]
    series: Series
    splits: Mapping[str, tuple[Part, ...]]
    lists: Mapping[str, tuple[ListedFlow, ...]]
    compare: Comparison | None
    notes: tuple[str, ...]
    version: int = field(default=VERSION)


@dataclass(frozen=True, slots=True)
class TracedRecord:
    """A record of a flow, or a PurePath behind one of its actions.

    time     its start; of an end, when the flow was over
    gap      from the end of the record before to its start; None for the first, and around PurePaths
    step     the step that it is; None: not one
    kind     "step", "exception" (of `step`, and not the step itself), "end", "purepath", "other" (copies of others, too)
    reached  whether the step's time is this record's
    record   as it is, its JSON
    """

    time: int
    gap: float | None
    step: str | None
    kind: str
    event_type: str | None
    outcome: str | None
    duration: float | None
    value: float | None
    exception: bool
    reached: bool
    id: str | None
    purepath: str | None
    record: str


@dataclass(frozen=True, slots=True)
class Trace:
    """One flow. steps: name -> time at which it was reached. why: what made the state what it is, in words.

    flow: None if it has no start, which `why` says.
    """

    id: str
    as_of: int
    flow: ListedFlow | None
    steps: Mapping[str, int | None]
    why: str
    records: tuple[TracedRecord, ...]
