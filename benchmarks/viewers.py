"""What those who look at the page cost: the server's CPU at full load with three viewers, next to the same without any.

Rounds come in pairs, one without viewers and one with them. A server that works as fast as it can uses as much CPU either
way, so what the viewers take is what the records do not account for:

    viewers_core_percent   of a core: (x_parse with viewers - x_parse without) x parse_us x occurrences per second
    alone_core_percent     all of the server, without viewers
    viewed_core_percent    and with them

x_parse, cpu_us and occurrences_per_s are those with viewers. viewers_core_percent is below zero if the noise is larger
than the cost. The records go to a black hole, so that the disk does not fill.
"""

from collections.abc import Callable, Iterator

from benchmarks import end_to_end
from benchmarks.far_ends import FAR_ENDS
from benchmarks.job import Job, Plan, Sample
from benchmarks.load import connections
from benchmarks.results import Case
from benchmarks.workshop import Workshop, child

VIEWERS = 3
SIZE = 1_000
"""Occurrences in a post."""


def jobs(plan: Plan) -> Iterator[Job]:
    case = Case("viewers", "page", {"viewers": VIEWERS, "occurrences": SIZE})
    yield Job(case, plan.rounds_of("viewers"), _pairs(plan))


def _pairs(plan: Plan) -> Callable[[Workshop], Iterator[Sample]]:
    rounds = plan.rounds_of("viewers")

    def run(workshop: Workshop) -> Iterator[Sample]:
        path = workshop.load(SIZE, plan.load)
        with FAR_ENDS["bizevents"].black_hole(workshop) as far_end, end_to_end.btfeed(workshop, far_end) as subject:
            bursts = end_to_end.bursts(subject, path, connections(SIZE), 2 * rounds, plan.viewed, plan.warm)
            for number in range(rounds):
                if number % 2:  # so that a machine that becomes slower or faster favours neither
                    seen = _seen(bursts, subject.admin_url)
                    yield _pair(next(bursts), seen)
                else:
                    alone = next(bursts)
                    yield _pair(alone, _seen(bursts, subject.admin_url))
            yield from bursts  # compares the records, and gives the memory

    return run


def _seen(bursts: Iterator[Sample], url: str) -> Sample:
    """The next burst, with viewers."""
    with child("benchmarks.viewer", url, VIEWERS) as viewers:
        viewers.ask("")
        sample = next(bursts)
        return sample | {"pages": float(viewers.ask(""))}


def _pair(alone: Sample, seen: Sample) -> Sample:
    extra = (seen["x_parse"] - alone["x_parse"]) * seen["parse_us"]
    return {
        "viewers_core_percent": _percent(extra, seen),
        "alone_core_percent": _percent(alone["cpu_us"], alone),
        "viewed_core_percent": _percent(seen["cpu_us"], seen),
        "alone_occurrences_per_s": alone["occurrences_per_s"],
        **{name: seen[name] for name in ("x_parse", "cpu_us", "occurrences_per_s", "ack_p99_ms", "pages")},
    }


def _percent(cpu_us: float, sample: Sample) -> float:
    """Of a core, from microseconds an occurrence."""
    return cpu_us * sample["occurrences_per_s"] / 1e6 * 100
