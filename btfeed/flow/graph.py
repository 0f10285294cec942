"""What may come after which step.

A step's rank is its place in the definition. Steps that may come before it have a lower one, so there is no cycle: loops
are said by `back_to` and `repeats`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from btfeed.flow.definition import StepSettings

Way = Literal["after", "repeats", "back_to"]


@dataclass(frozen=True, slots=True)
class Graph:
    """Ranks, for each step.

    after    the steps of which any has to come first; empty: a flow may begin here
    before   the steps that its share is told of: of `after`, those that are not optional, or all if all are
    ways     (from, to) -> how the definition says that `to` may follow `from`
    goals    the steps that convert
    passed   the optional steps between a step and the next, which flows that passed it may have gone on to
    """

    after: tuple[tuple[int, ...], ...]
    before: tuple[tuple[int, ...], ...]
    ways: Mapping[tuple[int, int], Way]
    goals: tuple[int, ...]
    passed: tuple[tuple[int, ...], ...]


def graph(steps: "Sequence[StepSettings]") -> Graph:
    """The graph of steps that `definition.parse` finds nothing wrong with."""
    ranks = {step.name: rank for rank, step in enumerate(steps)}
    after = tuple(
        _usual(steps, rank) if step.after is None else tuple(sorted({ranks[name] for name in step.after}))
        for rank, step in enumerate(steps)
    )
    before = tuple(tuple(p for p in each if not steps[p].optional) or each for each in after)
    ways: dict[tuple[int, int], Way] = {
        (rank, ranks[name]): "back_to" for rank, step in enumerate(steps) for name in step.back_to
    }
    ways |= {(rank, rank): "repeats" for rank, step in enumerate(steps) if step.repeats}
    ways |= {(p, rank): "after" for rank, each in enumerate(after) for p in each}
    goals = tuple(rank for rank, step in enumerate(steps) if step.goal) or (len(steps) - 1,)
    return Graph(after, before, ways, goals, tuple(_passed(steps, after, rank) for rank in range(len(steps))))


def _usual(steps: "Sequence[StepSettings]", rank: int) -> tuple[int, ...]:
    """The step before; where that is optional, the ones before it too, up to the first that is not."""
    found: list[int] = []
    while rank > 0:
        rank -= 1
        found.append(rank)
        if not steps[rank].optional:
            break
    return tuple(sorted(found))


def _passed(steps: "Sequence[StepSettings]", after: Sequence[Sequence[int]], rank: int) -> tuple[int, ...]:
    """Optional steps that come after this one, directly or by way of another such."""
    if steps[rank].optional:
        return ()
    found: list[int] = []
    for later in range(rank + 1, len(steps)):
        if steps[later].optional and any(p == rank or p in found for p in after[later]):
            found.append(later)
    return tuple(found)
