"""Changes between two periods in plain Python, from their definition: a number changes by a share of what it was, a rate by
points. Less than two standard deviations are noise; only of counts and rates they are known."""

from math import sqrt
from typing import Any

from btfeed.flow.report import Change, Figures

Part = tuple[int, int]
"""So many of so many."""


def changes(now: Figures, before: Figures) -> dict[str, Change]:
    """Name of the number -> its change."""
    (counts, rates, rest), (old_counts, old_rates, old_rest) = _numbers(now), _numbers(before)
    found = {name: of_count(number, old_counts[name]) for name, number in counts.items()}
    found |= {name: of_rate(part, old_rates[name]) for name, part in rates.items()}
    known = [name for name in rest if name.startswith("value.") and name.split(".")[1] in ("lost", "at_risk")]
    nothing = [name for name in known if rest[name] is old_rest[name] is None]
    money = {name: (rest[name] or 0.0, old_rest[name] or 0.0) for name in known}
    pairs = {name: money.get(name, (number, old_rest[name])) for name, number in rest.items() if name not in nothing}
    return found | {name: of_other(*pair) for name, pair in pairs.items()}


def _numbers(of: Figures) -> tuple[dict[str, int], dict[str, Part], dict[str, Any]]:
    """Counts, rates, and numbers whose noise is not told."""
    told = of.counts
    counts = {name: getattr(told, name) for name in ("started", "converted", "late", "ended", "lost", "open")}
    counts |= {"dropped": told.ended + told.lost, "exceptions": of.exceptions.exceptions}
    failed, tried = of.exceptions.exceptions, of.exceptions.attempts
    rates = {
        "conversion": (told.converted, told.started),
        "exception_rate": (failed, tried),
        "success_rate": (tried - failed, tried),
    }
    rest: dict[str, Any] = {f"duration.{name}": getattr(of.duration, name) for name in ("median", "p95", "average")}
    if of.value:
        rest |= {"value.won": of.value.won, "value.average": of.value.average}
        rest |= {
            f"value.{name}": amount.known if amount.flows else None
            for name, amount in (("lost", of.value.lost), ("at_risk", of.value.at_risk))
        }
    reached = {step.name: step.reached for step in of.steps}
    for step in of.steps:
        name = f"steps.{step.name}"
        counts |= {f"{name}.reached": step.reached, f"{name}.dropped": step.dropped, f"{name}.exceptions": step.exceptions}
        rates[f"{name}.exception_rate"] = (step.exceptions, step.attempts)
        if len(step.before) == 1:
            rates[f"{name}.of_before"] = (step.reached, reached[step.before[0]])
        rest |= {f"{name}.time.median": step.time.median, f"{name}.time.p95": step.time.p95}
    return counts, rates, rest


def of_count(now: int, before: int) -> Change:
    """Its variance is the number itself."""
    z = (now - before) / sqrt(now + before) if now != before else 0.0
    return Change(now, before, now / before - 1 if before else None, z=z, noise=-2 < z < 2)


def of_rate(now: Part, before: Part) -> Change:
    """Two proportions, whose variance is that of both together."""
    rates = [part / of if of else None for part, of in (now, before)]
    a, b = rates
    if a is None or b is None:
        return Change(a, b, None, points=True)
    pooled = (now[0] + before[0]) / (now[1] + before[1])
    variance = pooled * (1 - pooled) / now[1] + pooled * (1 - pooled) / before[1]
    z = (a - b) / sqrt(variance) if variance > 0 else 0.0
    return Change(a, b, a - b, points=True, z=z, noise=-2 < z < 2)


def of_other(now: float | None, before: float | None) -> Change:
    """Nothing is known of its noise."""
    return Change(now, before, now / before - 1 if now is not None and before else None)
