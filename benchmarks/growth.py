"""Which costs grow with the backlog, the number of business transactions, sinks and connections, and time.

Only one thing grows in a case, so a flat line means that more of it costs nothing.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import end_to_end, far_ends
from benchmarks.end_to_end import MEBIBYTE, Subject
from benchmarks.far_ends import Lines
from benchmarks.job import Job, Plan, Sample
from benchmarks.load import Load
from benchmarks.measuring import Baseline, cpu_seconds
from benchmarks.results import Case
from benchmarks.workshop import Workshop
from tests.support.harness import Server, peak_memory

REPEATS = 3
"""How often posts are sent on top of a backlog, and how often a server is started with it."""
STEADY = 50
"""Posts per second at the steady rate, of 100 occurrences each."""
DRAINED_GIB, MINUTE_GIB = 4.0, 0.5
"""The most that is written while a backlog is watched, and in a minute at the steady rate."""
STALLED = [sys.executable, "-m", "tests.support.stalled"]


def jobs(plan: Plan) -> Iterator[Job]:
    """A case is named after what grows in it."""
    for number in plan.transactions:
        run = _bursts(plan, 0, str(number), far_ends.file, 8)
        yield Job(Case("growth", "business transactions", {"number": number}), plan.rounds_of("growth"), run)
    for number in plan.sinks:
        run = _bursts(plan, 1_000, "mixed", lambda workshop, n=number: far_ends.several_files(workshop, n), 8)  # type: ignore[misc]
        yield Job(Case("growth", "file sinks", {"number": number}), plan.rounds_of("growth"), run)
    for number in plan.connections:
        run = _bursts(plan, 100, "mixed", far_ends.file, number)
        yield Job(Case("growth", "connections", {"number": number}), plan.rounds_of("growth"), run)
    for number in plan.backlogs:
        case, gib = Case("growth", "backlog", {"mebibytes": number}), DRAINED_GIB + number / 1024
        yield Job(case, 2 * REPEATS + 1, _backlog(plan, number), once=True, gib=gib)
    if plan.minutes:
        case, gib = Case("growth", "time", {"minutes": plan.minutes}), plan.minutes * MINUTE_GIB
        yield Job(case, plan.minutes, _steady(plan), once=True, gib=gib)


def _bursts(
    plan: Plan, size: int, kind: str, opened: far_ends.Open, connections: int
) -> Callable[[Workshop], Iterator[Sample]]:
    def run(workshop: Workshop) -> Iterator[Sample]:
        occurrences = plan.load if size else 5 * plan.load  # enough for the most names
        path = workshop.load(size, occurrences, kind)
        with opened(workshop) as far_end, end_to_end.btfeed(workshop, far_end) as subject:
            yield from end_to_end.bursts(
                subject, path, connections, plan.rounds_of("growth"), plan.burst / 2, warm=occurrences
            )

    return run


def _backlog(plan: Plan, mebibytes: int) -> Callable[[Workshop], Iterator[Sample]]:
    """A server that starts with this backlog: how soon it answers, and what it costs.

    take_x_parse       CPU of taking posts on top of the backlog, while nothing is delivered
    start_s            time from its start until it listens
    first_answer_ms    time of the first post after that
    x_parse            CPU of delivering, in the first seconds; if everything is delivered by then, no other start follows
    """

    def run(workshop: Workshop) -> Iterator[Sample]:
        path, directory = workshop.load(1_000, plan.load), workshop.directory()
        load = Load.read(path)
        baseline = Baseline(load.bodies, load.occurrences)
        yield from _fill(directory, path, load, baseline, mebibytes, plan.at_once)
        lines = Lines(directory / "files")
        for _ in range(REPEATS):
            if not mebibytes:  # without the posts whose cost was measured
                directory = workshop.directory()
                lines = Lines(directory / "files")
            sample, left = _start(directory, lines, load, baseline, plan.drain)
            yield sample
            if mebibytes and not left:
                break

    return run


_ROOMY = 'max_size = "100GiB"'


def _fill(directory: Path, path: Path, load: Load, baseline: Baseline, mebibytes: int, at_once: int) -> Iterator[Sample]:
    """Fill the journal of a server whose sink hangs, then measure what more posts cost."""
    size = sum(map(len, load.bodies)) / len(load.bodies)
    with ExitStack() as stack:
        server = stack.enter_context(Server(directory, journal=_ROOMY, program=STALLED))
        generator = stack.enter_context(end_to_end.sender(path, server.url, 8, load.per_post))
        generator.send(20)
        left = round(mebibytes * MEBIBYTE / size)
        while left > 0:
            generator.send(min(left, at_once))
            left -= at_once
        for _ in range(REPEATS):
            before, cpu = baseline.measure(), cpu_seconds(server.pid)
            generator.send(at_once)
            cost = (cpu_seconds(server.pid) - cpu) / at_once / load.per_post * 1e6
            yield {"take_x_parse": baseline.round(cost, before).ratio}
        server.kill()
    yield {"journal_mib": (directory / "journal" / "journal.db").stat().st_size / MEBIBYTE}


def _start(directory: Path, lines: Lines, load: Load, baseline: Baseline, drain: float) -> tuple[Sample, int]:
    """Start once with the backlog in `directory`. The sample, and how many posts still wait at the end."""
    records = lines.count()
    before, started = baseline.measure(), time.perf_counter()
    with Server(directory, journal=_ROOMY) as server:
        began, cpu = time.perf_counter(), cpu_seconds(server.pid)
        sample = {"start_s": began - started}
        sample["first_answer_ms"] = end_to_end.first_answer(server.url, load.bodies[0]) * 1e3
        while (left := server.status()["sinks"]["files"]["backlog_posts"]) and time.perf_counter() - began < drain:
            time.sleep(0.25)
        spent = cpu_seconds(server.pid) - cpu
        sample["rss_mib"] = peak_memory(server.pid) / MEBIBYTE
        server.kill()  # before the delivered records are counted
    delivered = lines.count() - records
    if delivered > load.occurrences:
        sample |= baseline.round(spent / delivered * 1e6, before).sample()
    return sample, left


def _steady(plan: Plan) -> Callable[[Workshop], Iterator[Sample]]:
    """A sample for each minute at the steady rate."""

    def run(workshop: Workshop) -> Iterator[Sample]:
        path = workshop.load(100, plan.load)
        load = Load.read(path)
        baseline = Baseline(load.bodies, load.occurrences)
        with ExitStack() as stack:
            far_end = stack.enter_context(far_ends.file(workshop))
            subject = stack.enter_context(end_to_end.btfeed(workshop, far_end, _ROOMY))
            generator = stack.enter_context(end_to_end.sender(path, subject.url, 64, load.per_post))
            generator.send(plan.at_once)
            for _ in range(plan.minutes):
                yield _minute(subject, generator, baseline)

    return run


def _minute(subject: Subject, generator: end_to_end.Sender, baseline: Baseline) -> Sample:
    before, cpu, sent = baseline.measure(), cpu_seconds(subject.pid), generator.sent
    summary = generator.send(STEADY * 60, STEADY)
    end_to_end.wait_for(subject, generator.sent)
    cost = (cpu_seconds(subject.pid) - cpu) / (generator.sent - sent) * 1e6
    memory = {"rss_mib": peak_memory(subject.pid) / MEBIBYTE}
    return baseline.round(cost, before).sample() | end_to_end.latencies(summary) | memory
