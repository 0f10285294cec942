"""A whole report in plain Python: periods, comparisons, series, splits and lists, from their definitions."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import floor
from typing import Any
from zoneinfo import ZoneInfo

from btfeed.flow.definition import BUCKETS, Definition
from btfeed.flow.options import WEEK, ListOptions, ReportOptions, Selection
from btfeed.flow.report import Bucket, Figures, ListedFlow, Part, Period, Read, Series
from tests.flow.oracle import Flow, Found, Look, after, flows
from tests.flow.oracle_numbers import DROPPED, figures, quantile, transitions

EPOCH, DAY = datetime(1970, 1, 1, tzinfo=UTC), 86_400_000


def usual(definition: Definition, every: Sequence[Flow]) -> float | None:
    if definition.window is not None:
        return float(round(definition.window * 1000))
    durations = [(flow.goal or 0) - (flow.start or 0) for flow in every if flow.state == "converted"]
    return quantile(durations, 0.99) if durations else None


def moment_of(flow: Flow, by: str) -> int | None:
    return flow.start if by == "start" else flow.decided


def pick(
    definition: Definition, found: Found, selection: Selection, as_of: int
) -> tuple[list[Flow], list[Flow], float | None]:
    """The flows of a period, all flows that are known, and how long flows usually take."""
    look = Look(selection.begin, selection.end, as_of)
    every = flows(definition, found, look)
    limit = usual(definition, every)
    every = [flow for flow in every if all(flow.dimensions[name] == wanted for name, wanted in selection.where)]
    chosen = [flow for flow in every if flow.start is not None and belongs(flow, selection)]
    if selection.mature and limit is not None:
        chosen = [flow for flow in chosen if (flow.start or 0) < as_of - limit]
    return chosen, every, limit


def belongs(flow: Flow, selection: Selection) -> bool:
    at = moment_of(flow, selection.by)
    return at is not None and within(at, selection)


def within(at: int, selection: Selection) -> bool:
    return (selection.begin is None or selection.begin <= at) and (selection.end is None or at < selection.end)


def has_event(flow: Flow, selection: Selection) -> bool:
    return any(event.step is not None and within(event.t, selection) for event in flow.events)


def beside(every: Sequence[Flow], selection: Selection) -> tuple[int, int]:
    """Flows without a start, and those that begun before the period, that have an event in it."""
    there = [flow for flow in every if has_event(flow, selection)]
    headless = sum(flow.start is None for flow in there)
    carried = [
        flow for flow in there if flow.start is not None and selection.begin is not None and flow.start < selection.begin
    ]
    return headless, sum(not belongs(flow, selection) for flow in carried)


def with_beside(definition: Definition, found: Figures, chosen: Sequence[Flow], others: tuple[int, int]) -> Figures:
    """With the counts that are told of a whole period only. others: see `beside`."""
    again = sum(resumed(definition, flow) for flow in chosen)
    return replace(found, counts=replace(found.counts, headless=others[0], carried_in=others[1], resumed=again))


def resumed(definition: Definition, flow: Flow) -> bool:
    """Whether it began again after its goal, or went on after a pause that is longer than any `lost_after`. Where any order
    is allowed, beginnings are not looked at."""
    patience = max(definition.lost_after, *(step.lost_after or 0 for step in definition.steps)) * 1000
    steps = [event for event in flow.events if event.is_step]
    again = [
        event
        for event in steps
        if definition.order == "sequence" and flow.goal is not None and not after(definition, event.step or 0)
        if event.t > flow.goal + definition.tolerance * 1000
    ]
    return bool(again) or any(b.t - a.t - a.took / 1000 > patience for a, b in pairwise(steps))


def series(
    definition: Definition,
    chosen: Sequence[Flow],
    selection: Selection,
    as_of: int,
    limit: float | None,
    first: int | None,
    width: int | None = None,
) -> Series:
    moments = [moment_of(flow, selection.by) or 0 for flow in chosen]
    begin = selection.begin if selection.begin is not None else min(moments, default=None)
    end = min(selection.end, as_of + 1) if selection.end is not None else max(moments, default=-1) + 1 if moments else None
    if width is None and definition.bucket is not None:
        width = round(definition.bucket * 1000)
    if begin is None or end is None or begin >= end:
        return Series(width or 60_000, ())
    widths = sorted(1000 * seconds for seconds in BUCKETS.values())
    width = width or max([each for each in widths if (end - begin) / each >= 24] or [widths[0]])
    by_bucket: dict[int, list[Flow]] = defaultdict(list)
    for flow in chosen:
        by_bucket[bucket_of(moment_of(flow, selection.by) or 0, width, definition.timezone)].append(flow)
    limits = sorted(
        {bucket_of(at, width, definition.timezone) for at in [*range(begin, end, min(width, 900_000)), end - 1]}
    )
    rows = []
    there = [(selection.begin, selection.end), (first, as_of + 1)]
    if selection.mature and limit is not None:
        there.append((None, as_of - limit))  # type: ignore[arg-type]
    for low in limits:
        high = next(
            at for at in range(low + width // 2, low + 2 * width, 60_000) if bucket_of(at, width, definition.timezone) > low
        )
        high = bucket_of(high, width, definition.timezone)
        inside = all((a is None or a <= low) and (b is None or high <= b) for a, b in there)
        flows = by_bucket.get(low, [])
        is_open = any(flow.state == "open" for flow in flows)
        rows.append(Bucket(low, high, is_open or not inside, figures(definition, flows)))
    return Series(width, tuple(rows))


def bucket_of(at: int, width: int, zone: str) -> int:
    """Where the bucket begins that this moment is in. Wide ones begin by the zone's clock, those of a week on Monday."""
    if width < 6 * 3_600_000:
        return at // width * width
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    monday = datetime(2000, 1, 3)  # noqa: DTZ001 - of the zone
    begin = monday + floor((local - monday) / timedelta(milliseconds=width)) * timedelta(milliseconds=width)
    return round(begin.replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def split(definition: Definition, chosen: Sequence[Flow], names: tuple[str, ...]) -> tuple[Part, ...]:
    parts: dict[tuple[str, ...], list[Flow]] = defaultdict(list)
    for flow in chosen:
        parts[tuple(flow.dimensions[name] for name in names)].append(flow)
    last = ("(others)",) * len(names)
    others = parts.pop(last, [])
    ordered = sorted(parts.items(), key=lambda item: (-len(item[1]), item[0]))
    told, others = ordered[:20], others + [flow for _, members in ordered[20:] for flow in members]
    rows = [*told, *([(last, others)] if others else [])]
    return tuple(Part(key, figures(definition, members), transitions(definition, members)) for key, members in rows)


def listed(definition: Definition, flow: Flow) -> ListedFlow:
    assert flow.start is not None
    return ListedFlow(
        id=str(flow.id),
        start=flow.start,
        state=flow.state,  # type: ignore[arg-type]  # one of the states
        furthest=definition.steps[flow.furthest].name,
        last=flow.last,
        decided=flow.decided,
        value=None if flow.value is None else float(flow.value),
        exceptions=flow.exceptions,
        dimensions=flow.dimensions,
    )


def lists(definition: Definition, chosen: Sequence[Flow], most: int) -> dict[str, tuple[ListedFlow, ...]]:
    dropped = [flow for flow in chosen if flow.state in DROPPED]
    found = {
        "dropped_with_exception": sorted((f for f in dropped if f.exceptions), key=lambda f: (-(f.decided or 0), f.id)),
        "open_longest_idle": sorted((f for f in chosen if f.state == "open"), key=lambda f: (f.last, f.id)),
        "largest_lost": sorted((f for f in dropped if f.value is not None), key=lambda f: (-(f.value or 0), f.id)),
    }
    return (
        {name: tuple(listed(definition, flow) for flow in members[:most]) for name, members in found.items()}
        if most
        else {}
    )


def chosen_for_list(definition: Definition, chosen: Sequence[Flow], options: ListOptions, as_of: int) -> list[ListedFlow]:
    keys: dict[str, Callable[[Flow], tuple[Any, ...]]] = {
        "start": lambda f: (-(f.start or 0), f.id),
        "last": lambda f: (-f.last, f.id),
        "value": lambda f: (f.value is None, -(f.value or 0), f.id),
        "exceptions": lambda f: (-f.exceptions, f.id),
    }
    kept = [
        flow
        for flow in chosen
        if (not options.states or flow.state in options.states)
        and (options.at is None or definition.steps[flow.furthest].name == options.at)
        and (options.idle is None or flow.last <= as_of - options.idle)
        and (flow.exceptions or not options.exceptions)
    ]
    return [listed(definition, flow) for flow in sorted(kept, key=keys[options.sort])][: options.limit]


# A whole report


def missing(definition: Definition, found: Found) -> tuple[str, ...]:
    """Fields that are written in the definition, and that no event's record has."""
    matches = [definition.where, definition.ends or {}]
    matches += [definition.exceptions.when] if "exceptions" in definition.model_fields_set else []
    for step in definition.steps:
        matches += [step.match, *step.exceptions]
    names = {name for match in matches for name, wanted in match.items() if wanted != {"exists": False}}
    names |= {definition.value.field} if definition.value else set()
    return tuple(sorted((names | set(definition.dimensions.values())) - found.fields))


def report(definition: Definition, found: Found, options: ReportOptions) -> dict[str, Any]:
    """Everything but notes and names."""
    as_of = options.as_of if options.as_of is not None else found.last
    chosen, every, limit = pick(definition, found, options, as_of or 0)
    whole = with_beside(definition, figures(definition, chosen), chosen, beside(every, options))
    before = (as_of or 0) - limit if options.mature and limit is not None else None
    times = series(definition, chosen, options, as_of or 0, limit, found.first)
    return {
        "as_of": as_of,
        "period": Period(options.begin, options.end, options.by, options.mature, before),
        "source": Read(
            "files",
            found.records,
            found.matched,
            found.unreadable,
            found.uncorrelated,
            found.duplicates,
            found.first,
            found.last,
            missing(definition, found) if found.matched else (),
            found.no_numbers,
        ),
        "usual": limit,
        "figures": whole,
        "transitions": transitions(definition, chosen),
        "series": times,
        "splits": {",".join(names): split(definition, chosen, names) for names in options.split},
        "lists": lists(definition, chosen, options.lists),
        "compared": compared(definition, found, options, as_of, times.bucket),
    }


def compared(
    definition: Definition, found: Found, options: ReportOptions, as_of: int | None, bucket: int
) -> tuple[str, int, Figures, Series] | None:
    """How a period is compared, how much earlier the other is, and what it was then."""
    asked = shifted(definition, options, as_of, found.first)
    if asked is None or as_of is None or options.begin is None:
        return None
    how, shift = asked
    clock = ZoneInfo(definition.timezone if days_of(definition, options) is not None and shift % DAY == 0 else "UTC")
    begin, known = moved(options.begin, shift, clock), moved(as_of, shift, clock)
    then = replace(options, begin=begin, end=None if options.end is None else moved(options.end, shift, clock))
    chosen, every, limit = pick(definition, found, then, known)
    whole = with_beside(definition, figures(definition, chosen), chosen, beside(every, then))
    times = series(definition, chosen, then, known, limit, found.first, bucket)
    return how, options.begin - begin, whole, times


def moved(at: int, shift: int, clock: ZoneInfo) -> int:
    """When this clock showed a time that much earlier."""
    shown = (EPOCH + timedelta(milliseconds=at)).astimezone(clock).replace(tzinfo=None) - timedelta(milliseconds=shift)
    return round(shown.replace(tzinfo=clock).timestamp() * 1000)


def days_of(definition: Definition, options: ReportOptions) -> int | None:
    """How many days of the zone a period has, 0 without an end; None: it is not of whole days."""
    bounds = [at for at in (options.begin, options.end) if at is not None]
    shown = [(EPOCH + timedelta(milliseconds=at)).astimezone(ZoneInfo(definition.timezone)) for at in bounds]
    if any(f"{each:%H:%M:%S.%f}" != "00:00:00.000000" for each in shown):
        return None
    return shown[-1].toordinal() - shown[0].toordinal()


def shifted(definition: Definition, options: ReportOptions, as_of: int | None, first: int | None) -> tuple[str, int] | None:
    if options.compare == "none" or options.begin is None or as_of is None or first is None:
        return None
    length = (options.end if options.end is not None else as_of + 1) - options.begin
    if options.end is not None and (days := days_of(definition, options)) is not None:
        length = days * DAY
    if isinstance(options.compare, int):
        return "shift", options.compare
    week_before = length < WEEK and first <= options.begin - WEEK
    if options.compare == "week" or (options.compare is None and week_before):
        return "week", WEEK
    if length <= 0 or (options.compare is None and first >= options.begin):
        return None
    return "previous", length
