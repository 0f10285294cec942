"""Reports, lists and traces as text for a terminal. Every number in it is in the JSON too."""

from collections.abc import Iterator, Mapping, Sequence
from zoneinfo import ZoneInfo

from btfeed.flow import words
from btfeed.flow.report import Amount, Change, Figures, ListedFlow, Part, Report, Spread, Step, Trace, Value
from btfeed.flow.words import money, number, percent
from btfeed.page.wording import count
from btfeed.telemetry.wording import cut

LONGEST = 40
"""Characters of a name that are shown."""
MOST_WAYS = 10
"""Ways that the definition does not have, of which each is told."""


def report(found: Report, zone: ZoneInfo) -> Iterator[str]:
    """The lines of a report. zone: in which moments are told."""
    yield f"{found.flow}   {period(found, zone)}"
    yield from _headline(found.figures)
    yield ""
    yield from table(STEP_HEAD, [step_row(step) for step in found.figures.steps])
    named = [each for each in found.figures.times if each.name != f"{each.begin} to {each.to}"]
    if named:
        yield ""
        yield from table(
            ("time", "flows", "half within", "95 % within", "average"),
            [(each.name, number(each.spread.n), *_spread(each.spread)) for each in named],
        )
    if found.figures.value:
        yield ""
        yield from _value(found.figures.value)
    if found.figures.exceptions.exceptions:
        yield ""
        yield _exceptions(found.figures)
    unexpected = [each for each in found.transitions if each.way is None]
    if unexpected:
        yield ""
        rows = [(each.begin, each.to, number(each.n), ", ".join(each.flows)) for each in unexpected[:MOST_WAYS]]
        yield from table(("ways not in the definition", "to", "times", "such as flow"), rows, texts=(0, 1, 3))
    if found.compare:
        yield ""
        begin, end = (words.moment(at, zone) for at in (found.compare.period.begin, found.compare.period.end))
        yield f"compared with {begin} to {end}, as it stood at {words.moment(found.compare.as_of, zone)}"
        yield from table(("number", "now", "before", "change"), list(_changes(found.compare.changes)))
    for name, parts in found.splits.items():
        yield ""
        yield from table(split_head(name), [part_row(part) for part in parts])
    for name, flows in found.lists.items():
        if flows:
            yield ""
            yield f"{LISTS[name]}:"
            yield from listed(flows, zone)
    if found.notes:
        yield ""
        yield from (f"note: {note}" for note in found.notes)


LISTS = {
    "dropped_with_exception": "dropped, with an exception",
    "open_longest_idle": "open, and idle for longest",
    "largest_lost": "dropped, of the largest value",
}
"""The lists of a report in words."""


def period(found: Report, zone: ZoneInfo) -> str:
    """Of which time, and from which moment it looks."""
    shown = found.period
    parts = []
    if shown.begin is not None or shown.end is not None:
        parts.append(f"{words.moment(shown.begin, zone)} to {words.moment(shown.end, zone)}")
    parts.append(f"as of {words.moment(found.as_of, zone)}")
    if shown.by == "decided":
        parts.append("by when flows were decided")
    if shown.mature:
        parts.append(f"begun before {words.moment(shown.mature_before, zone)}")
    return ", ".join(parts)


def _headline(figures: Figures) -> Iterator[str]:
    counts, rate = figures.counts, figures.conversion
    shown = f"started {number(counts.started)}   converted {number(counts.converted)}"
    if rate.rate is not None:
        low, high = (percent(each).removesuffix(" %") for each in (rate.low, rate.high))
        shown += f" = {percent(rate.rate)} ({low} to {high})"
    shown += f"   late {number(counts.late)}" if counts.late else ""
    yield f"{shown}   ended {number(counts.ended)}   lost {number(counts.lost)}   open {number(counts.open)}"
    if figures.duration.n:
        half, most, average = _spread(figures.duration)
        yield f"start to goal: half within {half}, 95 % within {most}, average {average}"


def _spread(spread: Spread) -> tuple[str, str, str]:
    return words.time(spread.median), words.time(spread.p95), words.time(spread.average)


STEP_HEAD = (
    "step", "flows", "of start", "of before", "dropped here", "open", "late", "time from before: half, 95 %",
    "beyond target", "more than once", "exceptions",
)  # fmt: skip


def step_name(step: Step) -> str:
    """With `?` if flows may pass it over."""
    return f"{cut(step.name, LONGEST)} ?" if step.optional else cut(step.name, LONGEST)


def step_row(step: Step) -> tuple[str, ...]:
    half, most, _ = _spread(step.time)
    beyond = f"{percent(step.beyond)} > {words.time(step.target)}" if step.target is not None and step.time.n else ""
    return (
        step_name(step),
        number(step.reached),
        percent(step.of_start),
        percent(step.of_before) if step.before else words.NOTHING,
        number(step.dropped),
        number(step.open),
        number(step.late) if step.late else "",
        f"{half}, {most}" if step.time.n else words.NOTHING,
        beyond,
        percent(step.more_than_once),
        f"{number(step.exceptions)} = {percent(step.exception_rate)}" if step.attempts else words.NOTHING,
    )


def _value(value: Value) -> Iterator[str]:
    unit = value.unit
    average = f", {money(value.average, unit)} each" if value.average is not None else ""
    yield f"{value.label} won {money(value.won, unit)} in {count(value.valued, 'flow')}{average}"
    for name, amount in (
        ("lost", value.lost),
        ("at risk in open flows", value.at_risk),
        ("lost with exceptions", value.lost_with_exceptions),
        ("late, neither won nor lost", value.late),
    ):
        if parts := list(_amount(amount, unit)):
            yield f"{value.label} {name}: {'; '.join(parts)}"


def _amount(amount: Amount, unit: str) -> Iterator[str]:
    if amount.flows:
        yield f"{money(amount.known, unit)} in {count(amount.flows, 'flow')}"
    if amount.about is not None and amount.about_flows:
        yield f"about {money(amount.about, unit)} in {count(amount.about_flows, 'flow')} whose value is not known"
    if amount.unknown_flows:
        flows = count(amount.unknown_flows, "flow")
        yield f"{flows} whose value can't be estimated, since none like them converted with one"


def shortly(amount: Amount, unit: str) -> str:
    """What flows are worth, in few words; nothing where there is none."""
    parts = [money(amount.known, unit)] if amount.flows else []
    parts += [f"about {money(amount.about, unit)}"] if amount.about is not None and amount.about_flows else []
    parts += [f"{count(amount.unknown_flows, 'flow')} not estimated"] if amount.unknown_flows else []
    return " + ".join(parts)


def _exceptions(figures: Figures) -> str:
    found = figures.exceptions
    with_, without = (
        percent(dropped / flows) if flows else words.NOTHING
        for dropped, flows in ((found.flows_dropped, found.flows), (found.others_dropped, found.others))
    )
    return (
        f"exceptions {number(found.exceptions)} = {percent(found.rate)} of {count(found.attempts, 'event')}, in "
        f"{count(found.flows, 'flow')}: {with_} of these dropped, and {without} of those without. That is no "
        "effect: who comes further has more events that can fail"
    )


def changes(found: Mapping[str, Change]) -> Iterator[tuple[str, Change]]:
    """Those that headlines tell."""
    for name, change in found.items():
        if not name.startswith("steps.") and (change.now is not None or change.before is not None):
            yield name, change


def shown_change(name: str, change: Change) -> tuple[str, str]:
    """Now and before, as the kind of number is written. name: see Comparison.changes."""
    if change.points:
        return percent(change.now), percent(change.before)
    if name.startswith(("duration", "times")):
        return words.time(change.now), words.time(change.before)
    if name.startswith("value"):
        return money(change.now), money(change.before)
    return number(change.now), number(change.before)


AS_FAR = {"value.lost": ", where known", "value.at_risk": ", where known"}
"""Changes that are of a part of what the report says -> of which."""


def _changes(found: Mapping[str, Change]) -> Iterator[tuple[str, ...]]:
    for name, change in changes(found):
        told = words.change(change.now, change.before, change.change, change.points, change.noise)
        yield (name.replace("_", " ").replace(".", " ") + AS_FAR.get(name, ""), *shown_change(name, change), told)


def split_head(name: str) -> tuple[str, ...]:
    """Of a table of parts. name: of the dimensions."""
    return (
        name, "flows", "converted", "conversion", "late", "dropped", "open", "start to goal: half", "value won",
        "value lost", "exceptions",
    )  # fmt: skip


def part_row(part: Part) -> tuple[str, ...]:
    figures = part.figures
    return (
        cut(", ".join(part.values), LONGEST),
        number(figures.counts.started),
        number(figures.counts.converted),
        percent(figures.conversion.rate),
        number(figures.counts.late) if figures.counts.late else "",
        number(figures.counts.dropped),
        number(figures.counts.open),
        words.time(figures.duration.median),
        money(figures.value.won, figures.value.unit) if figures.value else words.NOTHING,
        shortly(figures.value.lost, figures.value.unit) if figures.value else "",
        percent(figures.exceptions.rate),
    )


LIST_HEAD = ("flow", "start", "state", "furthest", "last event", "value", "exceptions")


def list_row(flow: ListedFlow, zone: ZoneInfo) -> tuple[str, ...]:
    return (
        flow.id,
        words.moment(flow.start, zone),
        flow.state,
        cut(flow.furthest, LONGEST),
        words.moment(flow.last, zone),
        money(flow.value) if flow.value is not None else words.NOTHING,
        number(flow.exceptions),
    )


def listed(flows: Sequence[ListedFlow], zone: ZoneInfo) -> Iterator[str]:
    """The lines of a list of flows."""
    return table(LIST_HEAD, [list_row(flow, zone) for flow in flows], texts=(0, 1, 2, 3, 4))


def trace(found: Trace, zone: ZoneInfo) -> Iterator[str]:
    """The lines of one flow: its records, then what became of it."""
    yield f"flow {found.id}   as of {words.moment(found.as_of, zone)}"
    yield ""
    rows = []
    for record in found.records:
        step = record.step or words.NOTHING
        marks = [*(["reached"] if record.reached else []), *(["exception"] if record.exception else [])]
        rows.append(
            (
                words.exact(record.time),
                words.time(record.gap) if record.gap is not None else "",
                f"  {record.kind}" if record.kind == "purepath" else cut(step, LONGEST),
                cut(record.event_type or words.NOTHING, LONGEST),
                record.outcome or "",
                words.time(record.duration) if record.duration else "",
                money(record.value) if record.value is not None else "",
                ", ".join(marks) or ("" if record.kind in ("step", "purepath") else record.kind),
            )
        )
    yield from table(
        ("time", "gap", "step", "event.type", "outcome", "duration", "value", "what"), rows, texts=(0, 2, 3, 4, 7)
    )
    yield ""
    reached = [(name, words.exact(at) if at is not None else words.NOTHING) for name, at in found.steps.items()]
    yield from table(("step", "reached at"), reached, texts=(0, 1))
    yield ""
    yield found.why


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = (0,)) -> Iterator[str]:
    """Lines with columns of one width each, without columns that are empty. texts: the columns that are not numbers, which
    stand at the left."""
    used = [column for column in range(len(head)) if any(row[column] for row in rows)] if rows else range(len(head))
    widths = {column: max(len(head[column]), *(len(row[column]) for row in rows), 0) for column in used}
    for row in (head, *rows):
        cells = (
            row[column].ljust(widths[column]) if column in texts else row[column].rjust(widths[column]) for column in used
        )
        yield "  ".join(cells).rstrip()
