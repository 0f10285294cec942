"""Figures now and before, and whether their difference is more than chance."""

from collections.abc import Iterator, Mapping
from math import sqrt

from btfeed.flow.report import Change, Figures

CHANCE = 2.0
"""So many standard deviations and more are not taken for noise."""
COUNTS = ("started", "converted", "late", "ended", "lost", "open", "dropped")


def changes(now: Figures, before: Figures) -> Mapping[str, Change]:
    """By the name of the number, such as "conversion" or "steps.Cart.reached"."""
    return dict(_changes(now, before))


def _changes(now: Figures, before: Figures) -> Iterator[tuple[str, Change]]:
    for name in COUNTS:
        yield name, count(getattr(now.counts, name), getattr(before.counts, name))
    yield "conversion", share(now.counts.converted, now.counts.started, before.counts.converted, before.counts.started)
    for name in ("median", "p95", "average"):
        yield f"duration.{name}", plain(getattr(now.duration, name), getattr(before.duration, name))
    here, there = now.exceptions, before.exceptions
    yield "exceptions", count(here.exceptions, there.exceptions)
    yield "exception_rate", share(here.exceptions, here.attempts, there.exceptions, there.attempts)
    yield (
        "success_rate",
        share(here.attempts - here.exceptions, here.attempts, there.attempts - there.exceptions, there.attempts),
    )
    if now.value and before.value:
        yield "value.won", plain(now.value.won, before.value.won)
        yield "value.average", plain(now.value.average, before.value.average)
        of_both = {"lost": (now.value.lost, before.value.lost), "at_risk": (now.value.at_risk, before.value.at_risk)}
        for name, (a, b) in of_both.items():
            if a.flows or b.flows:  # else nothing is known of it, and 0 would say that nothing was lost
                yield f"value.{name}", plain(a.known, b.known)
    yield from _of_steps(now, before)


def _of_steps(now: Figures, before: Figures) -> Iterator[tuple[str, Change]]:
    reached = {step.name: (step.reached, then.reached) for step, then in zip(now.steps, before.steps, strict=True)}
    for step, then in zip(now.steps, before.steps, strict=True):
        name = f"steps.{step.name}"
        yield f"{name}.reached", count(step.reached, then.reached)
        if len(step.before) == 1:
            of_now, of_then = reached[step.before[0]]
            yield f"{name}.of_before", share(step.reached, of_now, then.reached, of_then)
        yield f"{name}.dropped", count(step.dropped, then.dropped)
        yield f"{name}.exceptions", count(step.exceptions, then.exceptions)
        yield f"{name}.exception_rate", share(step.exceptions, step.attempts, then.exceptions, then.attempts)
        yield f"{name}.time.median", plain(step.time.median, then.time.median)
        yield f"{name}.time.p95", plain(step.time.p95, then.time.p95)


def plain(now: float | None, before: float | None) -> Change:
    """Of a number whose noise is not told."""
    relative = None if now is None or not before else (now - before) / before
    return Change(now, before, relative)


def count(now: int, before: int) -> Change:
    z = (now - before) / sqrt(now + before) if now + before else 0.0
    return Change(now, before, (now - before) / before if before else None, z=z, noise=abs(z) < CHANCE)


def share(now: int, of_now: int, before: int, of_before: int) -> Change:
    """Of `now` of `of_now`: two proportions. In points, from 0 to 1."""
    if not of_now or not of_before:
        return Change(now / of_now if of_now else None, before / of_before if of_before else None, None, points=True)
    a, b, both = now / of_now, before / of_before, (now + before) / (of_now + of_before)
    deviation = sqrt(max(0.0, both * (1 - both)) * (1 / of_now + 1 / of_before))
    z = (a - b) / deviation if deviation else 0.0
    return Change(a, b, a - b, points=True, z=z, noise=abs(z) < CHANCE)
