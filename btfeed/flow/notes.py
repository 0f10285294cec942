"""What a reader of a report has to know so that its numbers are not misread."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from btfeed.flow.ahead import Ahead
from btfeed.flow.coverage import without_fit
from btfeed.flow.definition import Definition
from btfeed.flow.fields import VISIT, expected
from btfeed.flow.options import ReportOptions
from btfeed.flow.report import UNKNOWN, Figures, Read, Report
from btfeed.flow.series import MOST
from btfeed.flow.transitions import many_unknown
from btfeed.flow.words import moment, time
from btfeed.page.wording import count
from btfeed.telemetry.wording import cut

MUCH_OPEN = 0.02
"""Share of open flows from which on rates are said to rise."""
MOSTLY = 0.9
"""Share of open flows without a value from which on it is said that only flows that are over have one."""
MANY_RESUMED = 0.05
"""Share of flows that began again, or went on after a long pause, from which on ids are said to be used again."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What notes tell, and a report does not have.

    young     how many flows are left out since they are too young
    asked     if there is no flow: dimensions that flows are chosen by -> values that there are
    nameless  dimensions that flows are chosen by -> open flows of the period without a value, and all open ones
    ahead     what is suspicious about the newest record, from which the report looks
    unlike    if no record matters: fields of `where` that no record fits -> values that there are
    """

    young: int = 0
    asked: Mapping[str, Sequence[str]] = field(default_factory=dict)
    nameless: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    ahead: Ahead | None = None
    unlike: Mapping[str, list[str]] = field(default_factory=dict)


def notes(definition: Definition, options: ReportOptions, made: Report, beside: Beside) -> tuple[str, ...]:
    """Sentences. made: the report that they are of, but for its notes."""
    zone = ZoneInfo(definition.timezone)
    return (
        *without_fit(definition, beside.unlike),
        *_of_records(made.source, bool(beside.unlike)),
        *_of_fields(definition, made.source),
        *_of_values(definition, made.source),
        *_of_ahead(made, beside.ahead, zone),
        *_of_nothing(options, made, beside, zone),
        *_of_flows(options, made.figures),
        *_of_ids(definition, made.figures),
        *_of_age(options, made, beside.young, definition.window is not None),
        *_of_where(beside.nameless),
        *_of_splits(made),
        *_of_series(options, made, zone),
        *_of_ways(definition, made),
        *_of_comparison(options, made, zone),
    )


def _of_records(read: Read, unlike: bool) -> Iterator[str]:
    if not read.matched and not unlike:
        yield "no record is a step of this flow; flow check tells which records there are"
    if read.unreadable:
        yield f"left out, since cut or no record with a time: {count(read.unreadable, 'line')}"
    if read.uncorrelated:
        yield f"left out: {count(read.uncorrelated, 'record')} without a correlation id"
    if read.duplicates:
        yield f"left out: {count(read.duplicates, 'copy', 'copies')} of records that are there already"


def _of_fields(definition: Definition, read: Read) -> Iterator[str]:
    for name, where in expected(definition).items():
        if name in read.missing:
            yield f"{where}: no step, exception or end has the field {name}; flow check tells which one may be meant"


def _of_values(definition: Definition, read: Read) -> Iterator[str]:
    if definition.value and read.no_numbers:
        are = "is not a number: it counts" if read.no_numbers == 1 else "are not numbers: they count"
        yield f"{count(read.no_numbers, 'value')} of {cut(definition.value.field)} {are} as missing"


def _of_flows(options: ReportOptions, figures: Figures) -> Iterator[str]:
    counts = figures.counts
    if counts.headless:
        yield f"left out: {count(counts.headless, 'flow')} without a first step: begun before the records, or a gap"
    if counts.carried_in:
        yield f"left out: {count(counts.carried_in, 'flow')} begun before the period, with events in it"
    if counts.started and counts.open / counts.started > MUCH_OPEN:
        share = f"{100 * counts.open / counts.started:.1f} % still open: rates will rise"
        yield share if options.mature else f"{share}, --mature leaves them out"
    if counts.disordered:
        yield f"{count(counts.disordered, 'flow')} with a step out of order, which does not count as reached"


def _of_ids(definition: Definition, figures: Figures) -> Iterator[str]:
    """Whether an id is likely to be that of a customer, who comes back with it."""
    resumed, started = figures.counts.resumed, figures.counts.started
    if resumed and resumed / started > MANY_RESUMED:
        fields = cut(" or ".join(definition.correlations))
        example = "" if VISIT in definition.correlations else f", such as {VISIT}"
        yield (
            f"{resumed:,} of {count(started, 'flow')} began again after the goal, or went on after a pause longer than "
            f"lost_after: an id is one flow, however often it comes back. If {fields} is "
            f"not new with each visit or order, set `correlation` to a field that is{example}"
        )


def _of_ways(definition: Definition, made: Report) -> Iterator[str]:
    if unknown := many_unknown(definition, made.transitions):
        share, most = unknown
        yield f"{100 * share:.1f} % of ways are not in the definition, most often from {most.begin} to {most.to}"


def _of_ahead(made: Report, ahead: Ahead | None, zone: ZoneInfo) -> Iterator[str]:
    """Whether flows look older than they are, so that open ones are taken for lost."""
    if ahead is None:
        return
    newest, before = moment(made.as_of, zone), moment(ahead.before, zone)
    if ahead.future:
        why = "later than this machine's clock"
        why += "" if ahead.before is None else f"; the newest that is not is of {before}"
    else:
        why = f"long after the one before, of {before}"
    yield f"the newest record is of {newest}, {why}: if its date is wrong, all flows look too old. --as-of leaves it out"


def _of_series(options: ReportOptions, made: Report, zone: ZoneInfo) -> Iterator[str]:
    if made.figures.counts.started and not made.series.rows:
        begin = f"the period begins at {moment(options.begin, zone)}, and " if options.begin is not None else ""
        yield (
            f"no series: it would have more than {MOST:,} buckets; {begin}the first record is of "
            f"{moment(made.source.first, zone)}: is its date right? Set a shorter --last, or a longer `bucket`"
        )


def _of_nothing(options: ReportOptions, made: Report, beside: Beside, zone: ZoneInfo) -> Iterator[str]:
    """Why there is no flow."""
    read, asked = made.source, beside.asked
    if made.figures.counts.started or beside.young or not read.matched:
        return
    strange = [(name, value) for name, value in options.where if asked.get(name) and value not in asked[name]]
    for name, value in strange:
        yield f"no flow has the {name} {cut(value)}; there is {', '.join(map(cut, asked[name]))}"
    bounds = (options.begin, options.end, options.as_of)
    if not strange and any(bound is not None for bound in bounds):
        yield f"no flow in this period: records are from {moment(read.first, zone)} to {moment(read.last, zone)}"


def _of_age(options: ReportOptions, made: Report, young: int, windowed: bool) -> Iterator[str]:
    if options.mature and made.usual is None:
        yield "no flow has converted, so it is not known which are old enough to be over: --mature leaves out none"
    elif young:
        why = "the window" if windowed else "within which 99 % of flows that convert do so"
        yield f"left out: {count(young, 'flow')} too young to be over: the limit is {time(made.usual)}, {why}"


def _of_where(nameless: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """The same of flows that are chosen by a value."""
    for name, (without, still) in nameless.items():
        if still and without / still > MOSTLY:
            yield _without(without, still, name)


def _without(nameless: int, still: int, name: str) -> str:
    return f"{nameless:,} of {count(still, 'open flow')} without {name} yet: the rates of its values look too high"


def _of_splits(made: Report) -> Iterator[str]:
    """Whether values are known of flows that are over only, so that open ones are in no part of their own."""
    for name, parts in made.splits.items():
        still = sum(part.figures.counts.open for part in parts)
        nameless = sum(part.figures.counts.open for part in parts if UNKNOWN in part.values)
        if still and nameless / still > MOSTLY and any(UNKNOWN not in part.values for part in parts):
            yield _without(nameless, still, name)


def _of_comparison(options: ReportOptions, made: Report, zone: ZoneInfo) -> Iterator[str]:
    compare, first = made.compare, made.source.first
    if compare and not compare.figures.counts.started:
        yield "no flow has started in the period that is compared"
    if compare and made.period.begin is not None:
        end = compare.period.end if compare.period.end is not None else compare.as_of + 1
        if end > made.period.begin:
            both = time(end - made.period.begin)
            yield f"the period and the one that it is compared with overlap by {both}: the same flows are in both"
    if compare or options.compare == "none":
        return
    if options.begin is not None and options.covered and first is not None and made.figures.counts.started:
        yield f"nothing is compared: records begin at {moment(first, zone)}, too late for an earlier period"
    elif options.compare is not None:
        yield "nothing is compared: that needs the beginning of the period"
