"""Two results side by side: which cases cost more than before, by more than the noise?

    python -m benchmarks compare BASE NEW [--threshold 0.1]

One quantity of each case is compared: the ratio to the parse, which a machine of changing speed does not spoil, or a
latency or rate if the case has no ratio. Allocations are compared too, if they were counted. A case is worse if its
median is past the threshold and the noise does not explain that: the middle halves of the rounds of both results do not
overlap. Fewer than MIN_ROUNDS rounds say too little about their noise. Then no rounds may overlap, and the ratio must be
further from 1 than SWAYS times the deviation of the ratios of all such cases.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.measuring import Spread
from benchmarks.results import Case, Result

COMPARED = ("x_parse", "x_bare", "x_scan", "x_composite", "ack_p99_ms", "occurrences_per_s")
"""The first one that a case has is compared."""
EXACT = ("allocations",)
"""These are compared as well. They have no noise."""
MIN_ROUNDS = 4
"""Fewer rounds have no meaningful middle half."""
SWAYS = 3.0
ENOUGH = 20
"""The least number of cases that show the noise between two runs."""
HIGHER_IS_BETTER = {"occurrences_per_s"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity of one case. ratio: above 1 is worse. sway: the deviation between two equal runs, of logarithms."""

    case: str
    quantity: str
    base: Spread
    new: Spread
    threshold: float
    sway: float = 0.0

    @property
    def few(self) -> bool:
        return self.quantity not in EXACT and min(self.base.rounds, self.new.rounds) < MIN_ROUNDS

    @property
    def ratio(self) -> float:
        base, new = max(self.base.median, 1e-12), max(self.new.median, 1e-12)
        return base / new if self.quantity in HIGHER_IS_BETTER else new / base

    @property
    def noisy(self) -> bool:
        """The middle halves of the rounds overlap. With few rounds: any rounds overlap, or other cases sway as far."""
        if self.few:
            touch = self.base.least <= self.new.most and self.new.least <= self.base.most
            return touch or abs(math.log(self.ratio)) <= SWAYS * self.sway
        return self.base.low <= self.new.high and self.new.low <= self.base.high

    @property
    def verdict(self) -> str:
        """same, worse, better, or noise, if the change is past the threshold but not past the noise."""
        if 1 / (1 + self.threshold) <= self.ratio <= 1 + self.threshold:
            return "same"
        if self.noisy:
            return "noise"
        return "worse" if self.ratio > 1 else "better"


def compare(base: Result, new: Result, threshold: float) -> Iterator[Comparison]:
    """The comparisons of all cases that both results have."""
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
    """The deviation of ratios from their median, so that a change of all of them does not count."""
    if len(logarithms) < ENOUGH:
        return 0.0
    middle = statistics.median(logarithms)
    return 1.4826 * statistics.median(abs(one - middle) for one in logarithms)


def _quantities(base: Case, new: Case) -> Iterator[str]:
    both = base.samples.keys() & new.samples.keys()
    yield from [quantity for quantity in COMPARED if quantity in both][:1]
    yield from (quantity for quantity in EXACT if quantity in both)


def gone(base: Result, new: Result) -> list[str]:
    """Cases of the base that the new result lacks."""
    there = {case.key for case in new.cases}
    return [case.key for case in base.cases if case.key not in there]


def report(comparisons: list[Comparison]) -> Iterator[str]:
    """A table for people, with the worst verdicts first."""
    yield f"{'case':66} {'quantity':18} {'base':>22} {'new':>22} {'ratio':>6}"
    order = {"worse": 0, "noise": 1, "better": 2, "same": 3}
    for one in sorted(comparisons, key=lambda one: (order[one.verdict], one.case)):
        yield (
            f"{one.case:66} {one.quantity:18} {_text(one.base):>22} {_text(one.new):>22} {one.ratio:6.2f}"
            f" {one.verdict if one.verdict != 'same' else ''}"
        ).rstrip()


def _text(spread: Spread) -> str:
    return f"{_short(spread.median)} ({_short(spread.low)}..{_short(spread.high)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
