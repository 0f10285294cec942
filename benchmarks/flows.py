"""What a report of flows costs, beside what reading its records costs: a bare DuckDB scan of the same columns.

Each round stands between two scans. `x_scan` is the CPU of the report, or of the trace of one flow, divided by that of a
scan; `x_scan_wall` the same in wall-clock time. The cases "whole command" run in a process of their own, with the start
of Python and everything that is imported, and tell its memory.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.job import Job, Plan, Sample
from benchmarks.results import Case
from benchmarks.workshop import Workshop
from btfeed.flow import reading
from btfeed.flow.definition import load
from btfeed.flow.duck import Database, identifier, literal
from btfeed.flow.engine import Engine
from btfeed.flow.fields import fields
from btfeed.flow.options import ListOptions, ReportOptions, Source
from btfeed.posts.post import digest
from btfeed.records.mapper import create_mapper
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from btfeed.traffic import profile
from btfeed.traffic.generate import GenerateOptions, generate
from tests.support.harness import peak_memory

PROFILE = "web-shop"
OCCURRENCES = 60
"""So many times the occurrences of a stage: fewer would measure how statements are planned."""
OCCURRENCES_PER_FLOW = 11
COMMAND_FLOWS = 20_000
MEMORY = (None, 150_000_000)
"""Limits: that of the engine, and bytes."""


def jobs(plan: Plan) -> Iterator[Job]:
    if find_spec("duckdb") is None:
        return
    rounds = plan.rounds_of("flows")
    flows = plan.occurrences * OCCURRENCES // OCCURRENCES_PER_FLOW
    for kind in ("ndjson", "parquet"):
        yield Job(Case("flows", "report", {"format": kind}), rounds, partial(_beside_scans, flows, kind, rounds, _report))
    yield Job(Case("flows", "trace", {"format": "ndjson"}), rounds, partial(_beside_scans, flows, "ndjson", rounds, _trace))
    whole = min(flows, COMMAND_FLOWS)
    for limit in MEMORY:
        case = Case("flows", "whole command", {"flows": whole} | ({"memory": f"{limit // 10**6} MB"} if limit else {}))
        yield Job(case, rounds, partial(_whole, whole, limit, rounds))


def _source(workshop: Workshop, flows: int, kind: str) -> Source:
    """The records of that many visits."""
    path = workshop.scratch / f"flows-{flows}.ndjson"
    if not path.exists():
        mapper = create_mapper(RecordSettings(), ValidationSettings())
        with path.open("wb") as file:
            for post in generate(GenerateOptions(profile.load(PROFILE), seed=1, visits=flows)):
                file.writelines(mapper.map(post.body, digest(post.body)).batch.parts)
    if kind == "ndjson":
        return Source("files", [path])
    target = path.with_suffix(".parquet")
    if not target.exists():
        with Database() as database:
            relation = f"read_json({literal(str(path))}, format = 'newline_delimited', sample_size = -1)"
            database.run(f"COPY (SELECT * FROM {relation}) TO {literal(str(target))} (FORMAT parquet)")
    return Source("files", parquet=[target])


def _beside_scans(
    flows: int, kind: str, rounds: int, work: Callable[[Source, str], None], workshop: Workshop
) -> Iterator[Sample]:
    source = _source(workshop, flows, kind)
    with Engine(load(PROFILE), source) as engine:
        records, flow = engine.read.records, engine.flows(ListOptions(limit=1))[0].id
    before = _cost(_scan, source, flow)
    for _ in range(rounds):
        cpu, wall = _cost(work, source, flow)
        after = _cost(_scan, source, flow)
        scan_cpu, scan_wall = (before[0] + after[0]) / 2, (before[1] + after[1]) / 2
        yield {
            "cpu_us": cpu / records * 1e6,
            "records_per_cpu_s": records / cpu,
            "scan_us": scan_cpu / records * 1e6,
            "x_scan": cpu / scan_cpu,
            "x_scan_wall": wall / scan_wall,
        }
        before = after


def _cost(work: Callable[[Source, str], None], source: Source, flow: str) -> tuple[float, float]:
    """Seconds of CPU, and of wall-clock time."""
    cpu, wall = time.process_time(), time.perf_counter()
    work(source, flow)
    return time.process_time() - cpu, time.perf_counter() - wall


def _scan(source: Source, flow: str) -> None:
    """Read the columns that a report needs, and do nothing with them."""
    columns = fields(load(PROFILE))
    counts = ", ".join(f"count({identifier(name)})" for name in columns)
    with Database() as database:
        database.rows(f"SELECT {counts} FROM ({reading.records(database, source, columns)})")


def _report(source: Source, flow: str) -> None:
    with Engine(load(PROFILE), source) as engine:
        engine.report(ReportOptions())


def _trace(source: Source, flow: str) -> None:
    with Engine(load(PROFILE), source) as engine:
        assert engine.trace(flow)


def _whole(flows: int, memory: int | None, rounds: int, workshop: Workshop) -> Iterator[Sample]:
    (path,) = _source(workshop, flows, "ndjson").ndjson
    for _ in range(rounds):
        command = [sys.executable, "-m", "benchmarks.flows", str(path), *([str(memory)] if memory else [])]
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        wall = time.perf_counter() - start
        told = json.loads(done.stdout)
        yield {"wall_ms": wall * 1000, "rss_mib": told["rss_mib"], "cpu_us": told["cpu"] / told["records"] * 1e6}


def _main(path: str, memory: str = "") -> None:
    """One report in this process, and what it took."""
    with Engine(load(PROFILE), Source("files", [Path(path)]), int(memory) if memory else None) as engine:
        records = engine.report(ReportOptions()).source.records
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {"records": records, "cpu": used.ru_utime + used.ru_stime, "rss_mib": peak_memory("self") / 2**20}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    _main(*sys.argv[1:])
