"""A result in words: what is flat as something grows and what is not, and whether the load generator bounds anything."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.measuring import Spread
from benchmarks.results import Case, Result

FLAT = 1.25
"""Costs that differ by less than this factor are called flat; so is what the noise explains."""
FEW = 10
"""Of a time at a steady rate, so many minutes are taken together, at its beginning and its end."""
QUANTITIES = {
    "x_parse": "CPU, × parse; of a backlog: of delivering it",
    "take_x_parse": "CPU of taking posts, × parse",
    "first_answer_ms": "first answer, ms",
    "start_s": "start, s",
    "ack_p99_ms": "99 % of answers, ms",
    "rss_mib": "memory at most, MiB",
}
"""What may grow, and how it is told."""
BOUND = 1.25
"""A load generator that reaches less than this times a rate may have bounded it."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What one quantity was as something grew. points: how much of that there was, and what it then cost."""

    name: str
    quantity: str
    points: list[tuple[float, Spread]]

    @property
    def ratio(self) -> float:
        """Of the last point to the first."""
        return self.points[-1][1].median / max(self.points[0][1].median, 1e-12)

    @property
    def verdict(self) -> str:
        """flat, grows or falls, from the first point to the last."""
        first, last = self.points[0][1], self.points[-1][1]
        overlap = first.low <= last.high and last.low <= first.high
        if 1 / FLAT <= self.ratio <= FLAT or (overlap and first.rounds > 1):
            return "flat"
        return "grows" if self.ratio > 1 else "falls"


def growths(result: Result) -> Iterator[Growth]:
    """Of each thing that grows, each quantity that was measured."""
    cases: dict[str, list[Case]] = {}
    for case in result.of("growth"):
        cases.setdefault(case.name, []).append(case)
    for name, found in cases.items():
        for quantity in QUANTITIES:
            points = _minutes(found[0], quantity) if name == "time" else _points(found, quantity)
            if len(points) > 1:
                yield Growth(name, quantity, points)


def _points(cases: list[Case], quantity: str) -> list[tuple[float, Spread]]:
    (parameter,) = cases[0].parameters
    there = [(float(case.parameters[parameter]), case.spread(quantity)) for case in cases if quantity in case.samples]
    return sorted(there, key=lambda point: point[0])


def _minutes(case: Case, quantity: str) -> list[tuple[float, Spread]]:
    """The first minutes together, and the last ones."""
    values = case.samples.get(quantity, [])
    few = min(FEW, len(values) // 2)
    return [(few, Spread.of(values[:few])), (len(values), Spread.of(values[-few:]))] if few else []


@dataclass(frozen=True, slots=True)
class Reserve:
    """size: occurrences in a post. alone: what the load generator reaches where nothing is done with them, occurrences a
    second. fastest: the case of that size with the highest rate of answers. busy: the most of its core that the generator
    used with any server."""

    size: int
    alone: float
    fastest: Case
    busy: float

    @property
    def rate(self) -> float:
        """Of answers, of the fastest case."""
        return self.fastest.median("acknowledged_per_s")

    @property
    def ratio(self) -> float:
        return self.alone / self.rate

    @property
    def enough(self) -> bool:
        """It bounds nothing of that size."""
        return self.ratio >= BOUND


def reserves(result: Result) -> Iterator[Reserve]:
    """For each size of posts."""
    for alone in result.of("load generator"):
        size = int(alone.parameters["occurrences"])
        served = [
            case
            for case in result.cases
            if case.group in ("whole server", "peers")
            and case.parameters.get("occurrences") == size
            and "acknowledged_per_s" in case.samples
        ]
        if served:
            fastest = max(served, key=lambda case: case.median("acknowledged_per_s"))
            busy = max(case.median("generator_busy") for case in served)
            yield Reserve(size, alone.median("occurrences_per_s"), fastest, busy)
