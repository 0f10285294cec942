"""What a result means: what posts as AppMon sends them cost, what stays flat as something grows, and whether the load
generator limits a rate."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import beside
from benchmarks.load import SMALL, connections
from benchmarks.measuring import Spread
from benchmarks.results import Case, Result

FLAT = 1.25
"""Costs that differ by less than this factor, or by less than the noise, are flat."""
MINUTES_AT_AN_END = 10
"""At a steady rate, this many first minutes are compared with this many last ones."""
GROWING = {
    "x_parse": "CPU, × parse; of a backlog: of delivering it",
    "take_x_parse": "CPU of taking posts, × parse",
    "first_answer_ms": "first answer, ms",
    "start_s": "start, s",
    "ack_p99_ms": "99 % of answers, ms",
    "rss_mib": "memory at most, MiB",
}
"""Quantities that may grow, and their descriptions."""
BOUND = 1.25
"""The load generator may have limited a rate if it reaches less than this times the rate."""


def usual(case: Case) -> bool:
    """Whether its posts come over as many connections as posts of that size do in most cases."""
    size = case.parameters.get("occurrences")
    return size is None or case.parameters.get("connections") in (None, connections(int(size)))


@dataclass(frozen=True, slots=True)
class Post:
    """What a post of `size` occurrences costs over that many connections. name: the case's, and who takes it."""

    case: Case
    size: int
    connections: int

    @property
    def name(self) -> str:
        told = {"none": "no sink", "file": "files"}.get(self.case.name, self.case.name)
        return told if self.case.group == "peers" else f"btfeed, {told}"

    @property
    def cpu_us(self) -> float:
        """CPU microseconds for the whole post."""
        return self.case.median("cpu_us") * self.size

    @property
    def per_s(self) -> float:
        """Posts that were answered in a second."""
        return self.case.median("acknowledged_per_s") / self.size


def posts(result: Result) -> list[Post]:
    """The small posts: to files, without a sink, and at peers; larger ones first, few connections first."""
    ours = [case for case in result.of("whole server") if case.name in ("file", "none")]
    found = [
        Post(case, int(case.parameters["occurrences"]), int(case.parameters["connections"]))
        for case in (*ours, *(case for case in result.of("peers") if case.name.partition(", ")[2] != "kafka"))
        if "acknowledged_per_s" in case.samples and "connections" in case.parameters
    ]
    return sorted((post for post in found if post.size <= SMALL), key=lambda post: (-post.size, post.connections))


def few_connections(result: Result) -> Iterator[str]:
    """What one connection costs, and what a sink takes from it, in words."""
    ours = {post.connections: post for post in posts(result) if post.name == "btfeed, files" and post.size == SMALL}
    least, most = min(ours, default=0), max(ours, default=0)
    if least < most:
        ratio = ours[least].case.median("x_parse") / ours[most].case.median("x_parse")
        yield (
            f"A post of {SMALL} occurrences to files costs {ratio:.1f} times as much over {_connections(least)} "
            f"as over {_connections(most)}."
        )
    for case in result.of(*beside.NAME):
        rate = case.spread("rate_of_none")
        yield (
            f"Over {_connections(beside.CONNECTIONS)}, btfeed answers {rate.median:.0%} as many posts of {beside.SIZE} "
            f"occurrences with files as without a sink ({rate.least:.0%} to {rate.most:.0%}, measured by turns)."
        )


def _connections(number: int) -> str:
    return f"{number} connection{'s' if number > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Growth:
    """One quantity as something grew. points: how much of that there was, and the quantity then."""

    name: str
    quantity: str
    points: list[tuple[float, Spread]]

    @property
    def ratio(self) -> float:
        """The last point's median to the first one's."""
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
    """For each thing that grows, each measured quantity."""
    cases: dict[str, list[Case]] = {}
    for case in result.of("growth"):
        cases.setdefault(case.name, []).append(case)
    for name, found in cases.items():
        for quantity in GROWING:
            points = _minutes(found[0], quantity) if name == "time" else _points(found, quantity)
            if len(points) > 1:
                yield Growth(name, quantity, points)


def _points(cases: list[Case], quantity: str) -> list[tuple[float, Spread]]:
    (parameter,) = cases[0].parameters
    there = [(float(case.parameters[parameter]), case.spread(quantity)) for case in cases if quantity in case.samples]
    return sorted(there, key=lambda point: point[0])


def _minutes(case: Case, quantity: str) -> list[tuple[float, Spread]]:
    """Two points: the first minutes, and the last ones."""
    values = case.samples.get(quantity, [])
    few = min(MINUTES_AT_AN_END, len(values) // 2)
    return [(few, Spread.of(values[:few])), (len(values), Spread.of(values[-few:]))] if few else []


@dataclass(frozen=True, slots=True)
class Reserve:
    """size: occurrences in a post. alone: occurrences per second that the load generator sends to a black hole.
    fastest: the case of that size with the highest rate of answers. busy: the largest share of its core that the generator
    used with any server."""

    size: int
    alone: float
    fastest: Case
    busy: float

    @property
    def rate(self) -> float:
        """Occurrences that the fastest case answered in a second."""
        return self.fastest.median("acknowledged_per_s")

    @property
    def ratio(self) -> float:
        return self.alone / self.rate

    @property
    def enough(self) -> bool:
        """Whether the generator limits no rate of this size."""
        return self.ratio >= BOUND


def reserves(result: Result) -> Iterator[Reserve]:
    """The reserve of the load generator, for each size of posts."""
    for alone in result.of("load generator"):
        size = int(alone.parameters["occurrences"])
        served = [
            case
            for case in result.cases
            if case.group in ("whole server", "peers")
            and case.parameters.get("occurrences") == size
            and "generator_busy" in case.samples
        ]
        if served:
            fastest = max(served, key=lambda case: case.median("acknowledged_per_s"))
            busy = max(case.median("generator_busy") for case in served)
            yield Reserve(size, alone.median("occurrences_per_s"), fastest, busy)
