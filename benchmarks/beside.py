"""What a file sink takes from the rate of one connection: a server with it and one without any sink, by turns.

AppMon sends over one or a few connections, so a post waits for the answer to the one before. Each round is a short burst
at both servers; which is first, changes. The disk's speed changes, too, so there are more rounds than of other cases. The
answered posts count, not the delivered ones: a sink's linger is in no rate.

    rate_of_none        answered posts per second with files, divided by those without a sink
    x_none              CPU with files, divided by that without a sink
    none posts_per_s    without a sink
    none cpu_us         without a sink
"""

from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks import end_to_end, far_ends
from benchmarks.job import Plan, Sample
from benchmarks.workshop import Workshop

NAME = ("whole server", "file beside no sink")
SIZE, CONNECTIONS = 100, 1
"""Occurrences in a post, as AppMon's default has it, and connections."""
PAIRS = 3
"""So many times the rounds of the plan, of shorter bursts."""


def pairs(plan: Plan, workshop: Workshop) -> Iterator[Sample]:
    """A sample for each round."""
    path, rounds = workshop.load(SIZE, plan.load), PAIRS * plan.rounds_of(NAME[0])
    with ExitStack() as stack:
        both = []
        for far_end in (stack.enter_context(far_ends.file(workshop)), None):
            subject = stack.enter_context(end_to_end.btfeed(workshop, far_end))
            both.append(end_to_end.bursts(subject, path, CONNECTIONS, rounds, plan.burst / PAIRS, plan.warm))
        for number in range(rounds):
            if number % 2:  # so that a machine that becomes slower or faster favours neither
                none, file = next(both[1]), next(both[0])
            else:
                file, none = next(both[0]), next(both[1])
            yield {
                "rate_of_none": file["acknowledged_per_s"] / none["acknowledged_per_s"],
                "x_none": file["cpu_us"] / none["cpu_us"],
                "none posts_per_s": none["acknowledged_per_s"] / SIZE,
                "none cpu_us": none["cpu_us"],
                **{
                    name: file[name] for name in ("x_parse", "cpu_us", "acknowledged_per_s", "ack_p99_ms", "generator_busy")
                },
            }
        for bursts in both:
            list(bursts)  # compares the records
