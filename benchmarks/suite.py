"""What is measured, in which order. Jobs run in several turns, each in another random order.

So minutes in which the machine is slow affect all cases equally. The order comes from a seed, which the result contains.
"""

import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from shutil import disk_usage
from typing import Any

from rich.console import Console

from benchmarks import allocations, bare, beside, end_to_end, flows, growth, journals, peers, sources, stages, viewers
from benchmarks.end_to_end import Lost
from benchmarks.far_ends import FAR_ENDS, all_of, available
from benchmarks.figures import RESULT
from benchmarks.job import Job, Plan, Sample
from benchmarks.load import FEW, KINDS, SIZES, SMALL_SIZES, connections
from benchmarks.progress import Bars, bars
from benchmarks.results import SINK, Case, Result
from benchmarks.workshop import Workshop
from btfeed import native

PLAIN = ", plain path"
FILE_PLAIN = "file" + PLAIN
"""The name of the case in which the whole server runs without the native transcoder."""


def jobs(plan: Plan) -> Iterator[Job]:
    """All jobs of a plan."""
    yield from _stages(plan)
    yield from _whole_server(plan)
    yield from _latency(plan)
    yield from _generator(plan)
    yield from growth.jobs(plan)
    yield from viewers.jobs(plan)
    yield from bare.jobs(plan)
    yield from journals.jobs(plan)
    yield from peers.jobs(plan)
    yield from sources.jobs(plan)
    yield from flows.jobs(plan)


def _stages(plan: Plan) -> Iterator[Job]:
    names = [*stages.STAGES, *(SINK + name for name in FAR_ENDS)]
    for size, kind in [*((size, "mixed") for size in SIZES), *((1_000, kind) for kind in KINDS)]:
        for name in names:
            case = Case("stages", name, {"occurrences": size, "posts": kind})
            yield Job(case, plan.rounds, _stage(case, plan))


def _stage(case: Case, plan: Plan) -> Callable[[Workshop], Iterator[Sample]]:
    def run(workshop: Workshop) -> Iterator[Sample]:
        with _sink_of(workshop, case.name) as (sink, count):
            work = (_posts_of(workshop, case, plan), workshop.directory(), case.name, sink, plan.rounds)
            measured = workshop.kept("processes", _processes).submit(stages.measure, *work).result()
            if sink and count() != measured.occurrences:
                raise Lost(f"{measured.occurrences} were written, {count()} have arrived")
        yield from measured.samples

    return run


def _processes() -> ProcessPoolExecutor:
    """Runs each task in a new process, forked from one that has only imported what it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.stages"])
    return ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1)


def _posts_of(workshop: Workshop, case: Case, plan: Plan) -> Any:
    return workshop.load(int(case.parameters["occurrences"]), plan.occurrences, str(case.parameters["posts"]))


@contextmanager
def _sink_of(workshop: Workshop, stage: str) -> Iterator[tuple[Mapping[str, Any] | None, Callable[[], int]]]:
    """If the stage is a sink, its table and a function that counts the records at its far end."""
    if not stage.startswith(SINK):
        yield None, lambda: 0
        return
    with FAR_ENDS[stage.removeprefix(SINK)].black_hole(workshop) as far_end:
        (sink,) = far_end.sinks.values()
        yield sink, far_end.count


def count_allocations(workshop: Workshop, plan: Plan, cases: Sequence[Case]) -> None:
    """Add the number of allocations to the cases of stages, if this machine can count them."""
    counted = [case for case in cases if case.group == "stages" and case.samples]
    if allocations.missing() or not counted:
        return
    with ExitStack() as stack:
        asked = []
        for case in counted:
            sink, _ = stack.enter_context(_sink_of(workshop, case.name))
            asked.append((case.name, _posts_of(workshop, case, plan), sink))
        for case, number in zip(counted, allocations.count(asked, workshop.directory()), strict=True):
            case.add({"allocations": number})


def _whole_server(plan: Plan) -> Iterator[Job]:
    for name in ("none", *available(), "all", *([FILE_PLAIN] if native.module else [])):
        for size in SIZES if name == "file" else plan.few if name in ("all", FILE_PLAIN) else plan.sizes:
            yield _posts("whole server", name, size, connections(size), plan)
    for size in SMALL_SIZES:
        for number in FEW:
            yield _posts("whole server", "file", size, number, plan)
    parameters = {"occurrences": beside.SIZE, "connections": beside.CONNECTIONS}
    yield Job(Case(*beside.NAME, parameters), plan.rounds_of("whole server"), partial(beside.pairs, plan))


def _posts(group: str, name: str, size: int, number: int, plan: Plan) -> Job:
    """Posts of `size` occurrences over this many connections."""
    rounds = plan.rounds_of(group)

    def run(workshop: Workshop) -> Iterator[Sample]:
        with far_end_and_server(workshop, name) as subject:
            path = workshop.load(size, plan.load)
            yield from end_to_end.bursts(subject, path, number, rounds, plan.burst, plan.warm)

    return Job(Case(group, name, {"occurrences": size, "connections": number}), rounds, run)


@contextmanager
def far_end_and_server(workshop: Workshop, name: str) -> Iterator[end_to_end.Subject]:
    """name: one of FAR_ENDS, "all" that are available, "none", or FILE_PLAIN."""
    with ExitStack() as stack:
        far_end = None
        if name != "none":
            opened = all_of if name == "all" else FAR_ENDS[name.removesuffix(PLAIN)].open
            far_end = stack.enter_context(opened(workshop))
        yield stack.enter_context(end_to_end.btfeed(workshop, far_end, plain=name.endswith(PLAIN)))


def _latency(plan: Plan) -> Iterator[Job]:
    for rate in plan.rates:
        parameters = {"occurrences": 100, "posts_per_s": rate}
        yield Job(Case("latency", "file", parameters), 1, _paced(rate, plan))


def _paced(rate: float, plan: Plan) -> Callable[[Workshop], Iterator[Sample]]:
    def run(workshop: Workshop) -> Iterator[Sample]:
        with far_end_and_server(workshop, "file") as subject:
            yield from end_to_end.paced(subject, workshop.load(100, plan.load), rate, plan.paced, plan.warm)

    return run


def _generator(plan: Plan) -> Iterator[Job]:
    for size in SIZES:
        yield Job(Case("load generator", "black hole", {"occurrences": size}), plan.rounds, _black_hole(size, plan))


def _black_hole(size: int, plan: Plan) -> Callable[[Workshop], Iterator[Sample]]:
    def run(workshop: Workshop) -> Iterator[Sample]:
        path = workshop.load(size, plan.load)
        yield from end_to_end.black_hole(workshop, path, connections(size), plan.rounds, plan.warm)

    return run


class NoRoom(Exception):
    """There is less free disk space than a case needs."""


def run(plan: Plan, seed: int, wanted: Callable[[Case], bool], console: Console) -> tuple[list[Case], dict[str, str]]:
    """Run the jobs of the `wanted` cases. Returns the cases, and the reasons of those that failed, by key.

    Raises NoRoom before anything is measured.
    """
    rng = random.Random(seed)
    chosen = [job for job in jobs(plan) if wanted(job.case)]
    _look_for_room(chosen)
    with Workshop() as workshop:
        with bars(console) as show:
            for turn in range(plan.turns):
                due = [job for job in chosen if turn < _turns(job, plan) and not job.failure]
                rng.shuffle(due)
                show.turn(turn + 1, plan.turns, len(due))
                for job in due:
                    _run(job, workshop, show)
        count_allocations(workshop, plan, [job.case for job in chosen])
    cases = [job.case for job in chosen if not job.failure]
    return cases, {job.case.key: job.failure for job in chosen if job.failure}


def _turns(job: Job, plan: Plan) -> int:
    return 1 if job.once or job.case.group in plan.once else plan.turns


def _look_for_room(chosen: Sequence[Job]) -> None:
    where = tempfile.gettempdir()
    free = disk_usage(where).free / 2**30
    for job in chosen:
        if job.gib > free:
            raise NoRoom(
                f"{job.case.key} needs {job.gib:.0f} GiB of free disk, and {where} has {free:.1f}: "
                "set TMPDIR to another folder"
            )


def _run(job: Job, workshop: Workshop, show: Bars) -> None:
    show.begin(job.case.key, job.rounds, _expected(job))
    started = time.perf_counter()
    try:
        for sample in job.run(workshop):
            job.case.add(sample)
            show.sampled()
    except Exception as error:  # noqa: BLE001 - the other cases go on
        job.failure = f"{type(error).__name__}: {error}"
        show.failed()
    workshop.clear()
    job.case.add({"case_s": time.perf_counter() - started})
    show.end()


def _expected(job: Job) -> float | None:
    """Seconds that the case took in the previous turn, or in the committed result."""
    if earlier := job.case.samples.get("case_s"):
        return earlier[-1]
    return _committed().get(job.case.key)


@cache
def _committed() -> dict[str, float]:
    """Seconds of each case in the committed result, by key."""
    with suppress(OSError, ValueError):
        return {case.key: case.median("case_s") for case in Result.load(RESULT).cases if "case_s" in case.samples}
    return {}
