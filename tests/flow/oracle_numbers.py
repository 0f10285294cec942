"""The numbers of flows in plain Python, from their definitions: section by section what a report has."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import pairwise
from math import ceil, floor, sqrt
from typing import Any

from btfeed.flow.definition import Definition
from btfeed.flow.report import (
    Amount,
    Conversion,
    Counts,
    Exceptions,
    Figures,
    Spread,
    Step,
    Time,
    Transition,
    Value,
)  # fmt: skip
from tests.flow.oracle import Flow, after

DROPPED = ("ended", "lost")


def share(part: float, of: float) -> float | None:
    return part / of if of else None


def quantile(values: Sequence[float], q: float) -> float:
    """Linear between neighbours."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * q
    low, high = ordered[floor(place)], ordered[ceil(place)]
    return low + (high - low) * (place - floor(place))


def spread(values: Iterable[float], negative: bool = False) -> Spread:
    """negative: whether those below 0 count; else they are left out."""
    every = list(values)
    fine = [value for value in every if value >= 0 or negative]
    if not fine:
        return Spread(0, None, None, None, None, None, len(every))
    return Spread(
        len(fine), quantile(fine, 0.5), quantile(fine, 0.95), sum(fine) / len(fine), min(fine), max(fine),
        len(every) - len(fine),
    )  # fmt: skip


def wilson(hits: int, of: int) -> Conversion:
    """The roots of (p - share)^2 = z^2 p (1 - p) / n."""
    if not of:
        return Conversion(None, None, None)
    z2 = 1.959963984540054**2
    a, b, c = 1 + z2 / of, -(2 * hits / of + z2 / of), (hits / of) ** 2
    root = sqrt(max(0.0, b * b - 4 * a * c))
    return Conversion(hits / of, max(0.0, (-b - root) / (2 * a)), min(1.0, (-b + root) / (2 * a)))


def between(flow: Flow, begin: int, to: int) -> list[int]:
    return [flow.times[to] - flow.times[begin]] if begin in flow.times and to in flow.times else []


# Section 4


def figures(definition: Definition, chosen: Sequence[Flow]) -> Figures:
    states = Counter(flow.state for flow in chosen)
    ranks = range(len(definition.steps))
    astray = sum(any(flow.visits(s) and s not in flow.times for s in ranks) for flow in chosen)
    five = [states[name] for name in ("converted", "late", "ended", "lost", "open")]
    counts = Counts(len(chosen), five[0], five[1], five[2], five[3], five[4], disordered=astray)
    converted = [flow for flow in chosen if flow.state == "converted"]
    duration = spread((flow.goal or 0) - (flow.start or 0) for flow in converted)
    pairs = [
        (f"{definition.steps[p].name} to {definition.steps[s].name}", p, s)
        for s in ranks
        for p in sorted(after(definition, s))
    ]
    pairs += [(pair.name, definition.ranks[pair.begin], definition.ranks[pair.to]) for pair in definition.times]
    times = tuple(
        Time(
            name,
            definition.steps[p].name,
            definition.steps[s].name,
            spread(t for flow in chosen for t in between(flow, p, s)),
        )
        for name, p, s in pairs
    )
    steps = tuple(step(definition, chosen, s) for s in ranks)
    return Figures(
        counts,
        wilson(len(converted), len(chosen)),
        duration,
        value(definition, chosen),
        exceptions(chosen, ranks),
        steps,
        times,
    )


def step(definition: Definition, chosen: Sequence[Flow], s: int) -> Step:
    settings = definition.steps[s]
    all_before = sorted(after(definition, s))
    before = [p for p in all_before if not definition.steps[p].optional] or all_before
    here = [flow for flow in chosen if s in flow.times]
    at_before = [flow for flow in chosen if any(p in flow.times for p in before)]
    waits = [flow.times[s] - min(flow.times[p] for p in before if p in flow.times) for flow in here if flow in at_before]
    fine = [wait for wait in waits if wait >= 0]
    target = None if settings.target is None else round(settings.target * 1000)
    dropped = [flow for flow in chosen if flow.state in DROPPED]
    each = [flow.visits(s) for flow in here]
    failed, tried = sum(flow.failures(s) for flow in chosen), sum(flow.attempts(s) for flow in chosen)
    visits = sum(flow.visits(s) for flow in chosen)
    left = {s} | (
        {q for q in range(s + 1, len(definition.steps)) if passes(definition, s, q)} if not settings.optional else set()
    )
    goal = settings.goal or (not any(other.goal for other in definition.steps) and s == len(definition.steps) - 1)
    return Step(
        name=settings.name,
        optional=settings.optional,
        goal=goal,
        before=tuple(definition.steps[p].name for p in before),
        reached=len(here),
        of_start=share(len(here), len(chosen)),
        of_before=share(len(here), len(at_before)) if before else None,
        dropped=sum(flow.furthest == s for flow in dropped),
        open=sum(flow.furthest == s and flow.state == "open" for flow in chosen),
        late=len(here) - sum(flow.state == "converted" for flow in here) if goal else 0,
        drop_off=share(sum(flow.furthest in left for flow in dropped), len(here)),
        time=spread(waits),
        target=target,
        beyond=None if target is None or not before else share(sum(wait > target for wait in fine), len(fine)),
        visits=visits,
        more_than_once=share(sum(n >= 2 for n in each), len(here)),
        times_each=share(visits, len(here)),
        distribution=tuple(sum(n == k or (k == 5 and n > 5) for n in each) for k in range(1, 6)),
        exceptions=failed,
        attempts=tried,
        exception_rate=share(failed, tried),
        success_rate=share(tried - failed, tried),
        disordered=sum(flow.visits(s) > 0 and s not in flow.times for flow in chosen),
    )


def passes(definition: Definition, s: int, q: int) -> bool:
    """Whether q is an optional step after s, directly or by way of other optional ones."""
    if not definition.steps[q].optional:
        return False
    return any(p == s or (p > s and passes(definition, s, p)) for p in after(definition, q))


def exceptions(chosen: Sequence[Flow], ranks: Iterable[int]) -> Exceptions:
    failed, tried = sum(flow.exceptions for flow in chosen), sum(flow.attempts(s) for flow in chosen for s in ranks)
    hit = [flow for flow in chosen if flow.exceptions]
    spared = [flow for flow in chosen if not flow.exceptions]
    dropped = [sum(flow.state in DROPPED for flow in group) for group in (hit, spared)]
    return Exceptions(
        failed, tried, share(failed, tried), share(tried - failed, tried), len(hit), dropped[0], len(spared), dropped[1]
    )


def value(definition: Definition, chosen: Sequence[Flow]) -> Value | None:
    settings = definition.value
    if settings is None:
        return None

    def kind(flow: Flow) -> str:
        return flow.dimensions[settings.estimate_by] if settings.estimate_by else ""

    won: dict[str, list[Decimal]] = defaultdict(list)
    for flow in chosen:
        if flow.state == "converted" and flow.value is not None:
            won[kind(flow)].append(flow.value)
    averages = {name: float(sum(values, Decimal(0))) / len(values) for name, values in won.items()}

    def amount(group: Iterable[Flow]) -> Amount:
        members = list(group)
        known = [flow.value for flow in members if flow.value is not None]
        if settings.estimate_from is None:
            return Amount(float(sum(known, Decimal(0))), len(known))
        come = definition.ranks[settings.estimate_from]
        without = [kind(flow) for flow in members if flow.value is None and come in flow.times]
        guessed = [averages[each] for each in without if each in averages]
        unknown = sum(each not in averages for each in without)
        return Amount(float(sum(known, Decimal(0))), len(known), sum(guessed) if averages else None, len(guessed), unknown)

    every = [each for values in won.values() for each in values]
    total = float(sum(every, Decimal(0)))
    return Value(
        settings.label, settings.unit, total, len(every), total / len(every) if every else None,
        amount(flow for flow in chosen if flow.state in DROPPED),
        amount(flow for flow in chosen if flow.state == "open"),
        amount(flow for flow in chosen if flow.state in DROPPED and flow.exceptions),
        amount(flow for flow in chosen if flow.state == "late"),
    )  # fmt: skip


def transitions(definition: Definition, chosen: Sequence[Flow]) -> tuple[Transition, ...]:
    gaps: dict[tuple[int, int], list[float]] = defaultdict(list)
    went: dict[tuple[int, int], set[Any]] = defaultdict(set)
    for flow in chosen:
        for a, b in pairwise(event for event in flow.events if event.is_step):
            assert a.step is not None
            assert b.step is not None
            gaps[a.step, b.step].append((b.t * 1000 - (a.t * 1000 + a.took)) / 1000)
            went[a.step, b.step].add(flow.id)
    found = []
    for (a_step, b_step), values in sorted(gaps.items()):
        way = how(definition, a_step, b_step)
        named = () if way else tuple(map(str, sorted(went[a_step, b_step])[:3]))
        names = definition.steps[a_step].name, definition.steps[b_step].name
        found.append(Transition(*names, len(values), spread(values, negative=True), way, named))
    return tuple(found)


def how(definition: Definition, a: int, b: int) -> Any:
    """How the definition says that b may follow a."""
    if a in after(definition, b):
        return "after"
    if a == b and definition.steps[a].repeats:
        return "repeats"
    return "back_to" if definition.steps[b].name in definition.steps[a].back_to else None
