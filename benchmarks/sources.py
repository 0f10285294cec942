"""How fast the tools generate and replay posts: `btfeed generate` to a file, `btfeed replay` to a black hole.

The rates come from the commands' summaries, in wall-clock time. CPU includes the start of the command.
"""

import json
import resource
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.job import Job, Plan, Sample
from benchmarks.results import Case
from benchmarks.workshop import Workshop
from btfeed.traffic import profile
from tests.support.harness import BTFEED

OCCURRENCES_PER_FLOW = 11  # about, in the shipped profiles


def jobs(plan: Plan) -> Iterator[Job]:
    for name in profile.shipped():
        yield Job(Case("sources", "generate", {"profile": name}), 1, _generate(name, plan.occurrences * 5))
    yield Job(Case("sources", "replay", {"occurrences": 1_000}), 1, _replay)


def _generate(name: str, occurrences: int) -> Callable[[Workshop], Iterator[Sample]]:
    def run(workshop: Workshop) -> Iterator[Sample]:
        file = workshop.directory() / "generated.btposts"
        flows = occurrences // OCCURRENCES_PER_FLOW
        yield _command("generate", name, "--flows", flows, "--rate", 50, "--out", file)

    return run


def _replay(workshop: Workshop) -> Iterator[Sample]:
    hole = workshop.black_hole("receiver")
    yield _command("replay", workshop.load(1_000, 20_000), "--loop", 40, "--connections", 8, hole.said)


def _command(*arguments: object) -> Sample:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*BTFEED, *map(str, arguments), "--json"], stdout=subprocess.PIPE, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary: dict[str, Any] = json.loads(done.stdout)
    assert not summary["refused"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "occurrences_per_s": summary["occurrences_per_second"],
        "posts_per_s": summary["posts_per_second"],
        "cpu_us": cpu / summary["occurrences"] * 1e6,
    }
