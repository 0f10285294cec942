"""What costs more as something grows: a backlog, business transactions, sinks, connections, time.

Everything but what grows stays the same, so that a flat line is one that costs no more.
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
from tests.harness import Server, peak_memory

DRAIN = 5.0
"""Seconds that a backlog is watched while it is delivered."""
STEADY = 50
"""Posts of 100 occurrences a second, over the hour."""
AT_ONCE = 500
"""Posts that are sent in one go while a backlog is made, and to see what taking them costs."""
STALLED = [sys.executable, "-m", "tests.stalled"]


def jobs(plan: Plan) -> Iterator[Job]:
    """Names are what grows."""
    for number in plan.transactions:
        run = _bursts(plan, 0, str(number), lambda workshop: far_ends.file(workshop), 8)
        yield Job(Case("growth", "business transactions", {"number": number}), plan.rounds, run)
    for number in plan.sinks:
        run = _bursts(plan, 1_000, "mixed", lambda workshop, n=number: far_ends.several_files(workshop, n), 8)  # type: ignore[misc]
        yield Job(Case("growth", "file sinks", {"number": number}), plan.rounds, run)
    for number in plan.connections:
        run = _bursts(plan, 100, "mixed", lambda workshop: far_ends.file(workshop), number)
        yield Job(Case("growth", "connections", {"number": number}), plan.rounds, run)
    for number in plan.backlogs:
        yield Job(Case("growth", "backlog", {"mebibytes": number}), 1, _backlog(number), once=True)
    if plan.minutes:
        yield Job(Case("growth", "time", {"minutes": plan.minutes}), plan.minutes, _steady(plan.minutes), once=True)


def _bursts(
    plan: Plan, size: int, kind: str, opened: far_ends.Open, connections: int
) -> Callable[[Workshop], Iterator[Sample]]:
    def run(workshop: Workshop) -> Iterator[Sample]:
        path = workshop.load(size, 100_000 if size == 0 else 20_000, kind)
        with opened(workshop) as far_end, end_to_end.btfeed(workshop, far_end) as subject:
            yield from end_to_end.bursts(subject, path, connections, plan.rounds, plan.burst)

    return run


def _backlog(mebibytes: int) -> Callable[[Workshop], Iterator[Sample]]:
    """A server that starts with so much to deliver: how soon it answers, what it costs, what it needs.

    start_s            from its start until it listens
    first_answer_ms    the first post after that
    x_parse            CPU of delivering, in the first seconds
    take_x_parse       CPU of taking posts on top of it, while nothing is delivered
    """

    def run(workshop: Workshop) -> Iterator[Sample]:
        path, directory = workshop.load(1_000, 20_000), workshop.directory()
        load = Load.read(path)
        yield _fill(directory, path, load, mebibytes)
        baseline = Baseline(load.bodies, load.occurrences)
        lines = Lines(directory / "files")
        before, started = baseline.measure(), time.perf_counter()
        with Server(directory, journal=_ROOMY) as server:
            began = time.perf_counter()
            cpu, records = cpu_seconds(server.pid), lines.count()
            sample = {"start_s": began - started}
            sample["first_answer_ms"] = end_to_end.first_answer(server.url, load.bodies[0]) * 1e3
            while time.perf_counter() - began < DRAIN and server.status()["sinks"]["files"]["backlog_posts"]:
                time.sleep(0.25)
            spent, delivered = cpu_seconds(server.pid) - cpu, lines.count() - records
            sample["rss_mib"] = peak_memory(server.pid) / MEBIBYTE
            server.kill()
        if mebibytes and delivered:
            sample |= baseline.round(spent / delivered * 1e6, before).sample()
        yield sample

    return run


_ROOMY = 'max_size = "100GiB"'


def _fill(directory: Path, path: Path, load: Load, mebibytes: int) -> Sample:
    """Post until so much waits in the journal of a server whose sink hangs; then what another few posts cost."""
    baseline = Baseline(load.bodies, load.occurrences)
    size = sum(map(len, load.bodies)) / len(load.bodies)
    with ExitStack() as stack:
        server = stack.enter_context(Server(directory, journal=_ROOMY, program=STALLED))
        generator = stack.enter_context(end_to_end.sender(path, server.url, 8, load.per_post))
        generator.send(20)
        left = round(mebibytes * MEBIBYTE / size)
        while left > 0:
            generator.send(min(left, AT_ONCE))
            left -= AT_ONCE
        before, cpu = baseline.measure(), cpu_seconds(server.pid)
        generator.send(AT_ONCE)
        cost = (cpu_seconds(server.pid) - cpu) / AT_ONCE / load.per_post * 1e6
        taking = baseline.round(cost, before)
        server.kill()
    return {"take_x_parse": taking.ratio, "journal_mib": (directory / "journal" / "journal.db").stat().st_size / MEBIBYTE}


def _steady(minutes: int) -> Callable[[Workshop], Iterator[Sample]]:
    """A sample for each minute."""

    def run(workshop: Workshop) -> Iterator[Sample]:
        path = workshop.load(100, 20_000)
        load = Load.read(path)
        baseline = Baseline(load.bodies, load.occurrences)
        with ExitStack() as stack:
            far_end = stack.enter_context(far_ends.file(workshop))
            subject = stack.enter_context(end_to_end.btfeed(workshop, far_end, _ROOMY))
            generator = stack.enter_context(end_to_end.sender(path, subject.url, 64, load.per_post))
            generator.send(AT_ONCE)
            for _ in range(minutes):
                yield _minute(subject, generator, baseline)

    return run


def _minute(subject: Subject, generator: end_to_end.Sender, baseline: Baseline) -> Sample:
    before, cpu, sent = baseline.measure(), cpu_seconds(subject.pid), generator.sent
    summary = generator.send(STEADY * 60, STEADY)
    end_to_end.wait_for(subject, generator.sent)
    cost = (cpu_seconds(subject.pid) - cpu) / (generator.sent - sent) * 1e6
    memory = {"rss_mib": peak_memory(subject.pid) / MEBIBYTE}
    return baseline.round(cost, before).sample() | end_to_end.latencies(summary) | memory
