"""The rules of flows in plain Python, over records in memory: written from their definitions, without SQL.

`flows` gives each flow with the time of every step and its state. tests/flow/oracle_numbers.py has the numbers of flows,
and tests/flow/oracle_report.py those of a report.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from btfeed.flow.definition import Definition

Record = Mapping[str, Any] | None
"""None: a line that is no record."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OrderOf = Callable[[str], int]
"""event.id -> the number that orders records of one time and step."""


@dataclass
class Event:
    """A record that is a step (`step` is its rank), a further exception of one, or an end (`over`)."""

    t: int
    step: int | None
    further: bool
    failed: bool
    over: int | None
    took: int
    value: Decimal | None
    no_number: bool
    dimensions: dict[str, str | None]
    id: str | None
    order: int

    @property
    def is_step(self) -> bool:
        return self.step is not None and not self.further


@dataclass
class Flow:
    """A flow at a moment. times: of each step that it has reached."""

    id: Any
    events: list[Event]
    times: dict[int, int] = field(default_factory=dict)
    start: int | None = None
    goal: int | None = None
    furthest: int = -1
    last: int = 0
    state: str = ""
    decided: int | None = None
    value: Decimal | None = None
    dimensions: dict[str, str] = field(default_factory=dict)

    def visits(self, step: int) -> int:
        return sum(event.step == step and not event.further for event in self.events)

    def failures(self, step: int) -> int:
        return sum(event.step == step and event.failed for event in self.events)

    def attempts(self, step: int) -> int:
        return sum(event.step == step for event in self.events)

    @property
    def exceptions(self) -> int:
        return sum(event.failed for event in self.events if event.step is not None)


@dataclass
class Found:
    """The events of records, and what was counted on the way."""

    events: dict[Any, list[Event]]
    records: int = 0
    matched: int = 0
    unreadable: int = 0
    uncorrelated: int = 0
    duplicates: int = 0
    first: int | None = None
    last: int | None = None
    fields: set[str] = field(default_factory=set)
    no_numbers: int = 0


# Records


def text(value: Any) -> str | None:
    """A field as a text."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def number(value: str | None) -> float | None:
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None


def moment(value: Any) -> int | None:
    """Milliseconds since the epoch, of an RFC 3339 time."""
    try:
        written = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return ((written if written.tzinfo else written.replace(tzinfo=UTC)) - EPOCH) // timedelta(milliseconds=1)


def fits(record: Mapping[str, Any], match: Mapping[str, Any]) -> bool:
    return all(fits_one(text(record.get(name)), wanted) for name, wanted in match.items())


def fits_one(value: str | None, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        choices = wanted if isinstance(wanted, list) else [wanted]
        return any(equal(value, choice) for choice in choices)
    numeric = number(value)
    checks: dict[str, Callable[[Any], bool]] = {
        "not": lambda no: not fits_one(value, no),
        "prefix": lambda begin: value is not None and value.startswith(begin),
        "min": lambda low: numeric is not None and numeric >= low,
        "max": lambda high: numeric is not None and numeric <= high,
        "exists": lambda there: (value is not None) == there,
        "regex": lambda pattern: value is not None and re.search(pattern, value) is not None,
    }
    return all(checks[key](operand) for key, operand in wanted.items())


def equal(value: str | None, wanted: Any) -> bool:
    if value is None:
        return False
    if isinstance(wanted, bool):
        return value == ("true" if wanted else "false")
    return number(value) == wanted if isinstance(wanted, int | float) else value == wanted


def money(value: Any) -> Decimal | None:
    try:
        amount = Decimal(text(value) or "").quantize(Decimal("0.000001"), ROUND_HALF_UP)
    except InvalidOperation:
        return None
    return amount if abs(amount) < 10**18 else None


# Events


def read(definition: Definition, records: Iterable[Record], order_of: OrderOf) -> Found:
    """Section 2.1: which records are events, each once."""
    found = Found(defaultdict(list))
    uncounted: dict[str, list[Event]] = defaultdict(list)
    for record in records:
        found.records += 1
        time = None if record is None else moment(record.get("timestamp"))
        if record is None or time is None:
            found.unreadable += 1
            continue
        event = event_of(definition, record, time, order_of) if fits(record, definition.where) else None
        if event is None:
            continue
        found.matched += 1
        found.fields |= {name for name, value in record.items() if value is not None}
        found.no_numbers += event.no_number
        found.first = min(time, time if found.first is None else found.first)
        found.last = max(time, event.over or time, time if found.last is None else found.last)
        names = definition.correlations
        correlation = next((text(record[name]) for name in names if record.get(name) not in (None, "")), None)
        if correlation is None:
            found.uncorrelated += 1
        else:
            uncounted[correlation].append(event)
    numeric = all(re.fullmatch("0|-?[1-9][0-9]*", flow) and len(flow) <= 18 for flow in uncounted)
    for flow, events in uncounted.items():
        seen: set[str] = set()
        for event in sorted(events, key=lambda event: event.t):
            if event.id is not None and event.id in seen:
                found.duplicates += 1
                continue
            seen.add(event.id or "")
            found.events[int(flow) if numeric else flow].append(event)
    return found


def event_of(definition: Definition, record: Mapping[str, Any], time: int, order_of: OrderOf) -> Event | None:
    step = next((rank for rank, step in enumerate(definition.steps) if is_step(step, record)), None)
    further = None
    if step is None:
        exceptions = [(rank, match) for rank, each in enumerate(definition.steps) for match in each.exceptions]
        further = next((rank for rank, match in exceptions if fits(record, match)), None)
    over = definition.ends is not None and fits(record, definition.ends)
    if step is None and further is None and not over:
        return None
    when = definition.exceptions.when
    failed = further is not None or (step is not None and bool(when) and fits(record, when))
    took = record.get("duration")
    value = definition.value
    worth = record.get(value.field) if value and (value.step is None or step == definition.ranks[value.step]) else None
    identity = record.get("event.id") or None
    return Event(
        t=time,
        step=further if step is None else step,
        further=further is not None,
        failed=failed,
        over=(moment(record.get("end_time")) if moment(record.get("end_time")) is not None else time) if over else None,
        took=max(0, took) // 1000 if isinstance(took, int) else 0,
        value=money(worth),
        no_number=worth not in (None, "") and money(worth) is None,
        dimensions={name: text(record.get(column)) for name, column in definition.dimensions.items()},
        id=identity,
        order=order_of(identity) if identity is not None else 0,
    )


def is_step(step: Any, record: Mapping[str, Any]) -> bool:
    types = {} if step.event is None else {"event.type": step.event}
    return fits(record, types) and fits(record, step.match)


# Flows


@dataclass(frozen=True)
class Look:
    """A period, and the moment from which it is looked at."""

    begin: int | None
    end: int | None
    as_of: int


def flows(definition: Definition, found: Found, look: Look) -> list[Flow]:
    """Sections 2.2 to 2.4: the flows among the events that are read for a period, those without a start too."""
    made = []
    for flow, events in found.events.items():
        seen = sorted(visible(definition, events, look), key=lambda event: position(definition, event))
        if any(event.step is not None for event in seen):
            made.append(flow_of(definition, flow, seen, look))
    return made


def visible(definition: Definition, events: Sequence[Event], look: Look) -> Iterable[Event]:
    window = None if definition.window is None else round(definition.window * 1000)
    for event in events:
        over = event.over if event.over is not None and event.over <= look.as_of else None
        exists = event.t <= look.as_of and (event.step is not None or over is not None)
        if window is not None and look.begin is not None and event.t < look.begin - window:
            exists = False
        if window is not None and look.end is not None and event.t > look.end + window:
            exists = False
        if exists:
            yield Event(**{**vars(event), "over": over})


def position(definition: Definition, event: Event) -> tuple[int, int, int]:
    return event.t, len(definition.steps) if event.step is None else event.step, event.order


def flow_of(definition: Definition, name: Any, events: list[Event], look: Look) -> Flow:
    flow = Flow(name, events, reached(definition, events))
    roots = [time for step, time in flow.times.items() if not after(definition, step)]
    flow.start = min(roots, default=None)
    flow.furthest = max(flow.times, default=-1)
    goals = [rank for rank, step in enumerate(definition.steps) if step.goal] or [len(definition.steps) - 1]
    flow.goal = min((flow.times[goal] for goal in goals if goal in flow.times), default=None)
    flow.last = max(event.t for event in events if event.step is not None)
    flow.value = value_of(definition, events)
    for dimension in definition.dimensions:
        known = [event.dimensions[dimension] for event in events if event.dimensions[dimension] is not None]
        flow.dimensions[dimension] = known[0] or "" if known else "(unknown)"
    if flow.start is not None:
        judge(definition, flow, look)
    return flow


def after(definition: Definition, rank: int) -> list[int]:
    """The steps of which any has to come first."""
    step = definition.steps[rank]
    if step.after is not None:
        return [definition.ranks[name] for name in step.after]
    found = []
    for earlier in range(rank - 1, -1, -1):
        found.append(earlier)
        if not definition.steps[earlier].optional:
            break
    return found


def reached(definition: Definition, events: Sequence[Event]) -> dict[int, int]:
    """The rule for T(s)."""
    times: dict[int, int] = {}
    tolerance = round(definition.tolerance * 1000)
    for rank in range(len(definition.steps)):
        own = [event.t for event in events if event.step == rank and not event.further]
        if after(definition, rank) and definition.order == "sequence":
            before = [times[p] for p in after(definition, rank) if p in times]
            own = [t for t in own if before and t >= min(before) - tolerance]
        if own:
            times[rank] = min(own)
    return times


def judge(definition: Definition, flow: Flow, look: Look) -> None:
    assert flow.start is not None
    window = None if definition.window is None else round(definition.window * 1000)
    step = definition.steps[flow.furthest]
    patience = definition.lost_after if step.lost_after is None else step.lost_after
    given_up = flow.last + round(patience * 1000)
    ends = [event.over for event in flow.events if event.over is not None]
    if flow.goal is not None and (window is None or flow.goal - flow.start <= window):
        flow.state, flow.decided = "converted", flow.goal
    elif flow.goal is not None:
        flow.state, flow.decided = "late", flow.goal
    elif ends:
        flow.state, flow.decided = "ended", min(ends)
    elif given_up <= look.as_of:
        flow.state, flow.decided = "lost", given_up
    else:
        flow.state = "open"


def value_of(definition: Definition, events: Sequence[Event]) -> Decimal | None:
    values = [event.value for event in events if event.value is not None]
    if not values or definition.value is None:
        return None
    calculations: dict[str, Callable[[list[Decimal]], Decimal]] = {
        "sum": lambda all_: sum(all_, Decimal(0)),
        "max": max,
        "first": lambda all_: all_[0],
        "last": lambda all_: all_[-1],
    }
    return calculations[definition.value.calculation](values)
