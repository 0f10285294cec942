"""Two results side by side: which case costs more than it did, and is it more than the noise?

    python -m benchmarks compare BASE NEW [--threshold 0.1]

Compared are, for each case, one quantity that a machine of changing speed does not spoil: the ratio to the parse where
there is one, and a latency or a rate where there is none; and allocations, where they were counted. A case is worse where
its median is past the threshold and the noise does not explain it: the middle halves of both results' rounds do not touch.
Fewer than FEW rounds know too little of their own noise: there no rounds at all may touch, and the ratio must be further
from 1 than the ratios of such cases are from each other, by SWAYS times.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.measuring import Spread
from benchmarks.results import Case, Result

QUANTITIES = ("x_parse", "x_bare", "ack_p99_ms", "occurrences_per_s")
"""The first one that a case has counts."""
COUNTED = ("allocations",)
"""These count besides: they have no noise."""
FEW = 4
"""Fewer rounds have no middle half to speak of."""
SWAYS = 3.0
ENOUGH = 20
"""Cases from which on the noise between two runs can be told."""
HIGHER_IS_BETTER = {"occurrences_per_s"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity of one case. ratio: above 1 is worse, whatever the quantity. sway: what two runs differ by anyway, as
    a difference of logarithms."""

    case: str
    quantity: str
    base: Spread
    new: Spread
    threshold: float
    sway: float = 0.0

    @property
    def few(self) -> bool:
        return self.quantity not in COUNTED and min(self.base.rounds, self.new.rounds) < FEW

    @property
    def ratio(self) -> float:
        base, new = max(self.base.median, 1e-12), max(self.new.median, 1e-12)
        return base / new if self.quantity in HIGHER_IS_BETTER else new / base

    @property
    def noisy(self) -> bool:
        """The middle halves of the rounds overlap; of few rounds, all of them, or other cases sway as far."""
        if self.few:
            touch = self.base.least <= self.new.most and self.new.least <= self.base.most
            return touch or abs(math.log(self.ratio)) <= SWAYS * self.sway
        return self.base.low <= self.new.high and self.new.low <= self.base.high

    @property
    def verdict(self) -> str:
        """same, worse, better, or noise: past the threshold, but not past the noise."""
        if 1 / (1 + self.threshold) <= self.ratio <= 1 + self.threshold:
            return "same"
        if self.noisy:
            return "noise"
        return "worse" if self.ratio > 1 else "better"


def compare(base: Result, new: Result, threshold: float) -> Iterator[Comparison]:
    """For each case that both have."""
    before = {case.key: case for case in base.cases}
    found = [
        Comparison(case.key, quantity, before[case.key].spread(quantity), case.spread(quantity), threshold)
        for case in new.cases
        if case.key in before
        for quantity in _quantities(before[case.key], case)
    ]
    sway = _sway([math.log(one.ratio) for one in found if one.few])
    yield from (replace(one, sway=sway) for one in found)


def _sway(logarithms: Sequence[float]) -> float:
    """The deviation of ratios, from their median: a change of all of them is none."""
    if len(logarithms) < ENOUGH:
        return 0.0
    middle = statistics.median(logarithms)
    return 1.4826 * statistics.median(abs(one - middle) for one in logarithms)


def _quantities(base: Case, new: Case) -> Iterator[str]:
    both = base.samples.keys() & new.samples.keys()
    yield from [quantity for quantity in QUANTITIES if quantity in both][:1]
    yield from (quantity for quantity in COUNTED if quantity in both)


def missing(base: Result, new: Result) -> list[str]:
    """Cases of the base that the new result has not."""
    there = {case.key for case in new.cases}
    return [case.key for case in base.cases if case.key not in there]


def report(comparisons: list[Comparison]) -> Iterator[str]:
    """The table that people read: what is worse first."""
    yield f"{'case':66} {'quantity':18} {'base':>22} {'new':>22} {'ratio':>6}"
    order = {"worse": 0, "noise": 1, "better": 2, "same": 3}
    for one in sorted(comparisons, key=lambda one: (order[one.verdict], one.case)):
        yield (
            f"{one.case:66} {one.quantity:18} {_told(one.base):>22} {_told(one.new):>22} {one.ratio:6.2f}"
            f" {one.verdict if one.verdict != 'same' else ''}"
        ).rstrip()


def _told(spread: Spread) -> str:
    return f"{_short(spread.median)} ({_short(spread.low)}..{_short(spread.high)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
