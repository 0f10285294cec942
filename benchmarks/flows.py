"""What a report of flows costs, beside what reading its records costs: a bare DuckDB scan of the same columns.

Each round stands between two scans. `x_scan` is the CPU of the report, or of the trace of one flow, divided by that of a
scan; `x_scan_wall` the same in wall-clock time. An extract is a Parquet file of the events alone; its costs are told for
each of the records that it was made of. The cases "whole command" run in a process of their own, with the start of Python
and everything that is imported, and tell its memory.

A report from Elasticsearch stands between two composite aggregations, which ask the same server for the first time of each
step of each flow, and can tell much less. `x_composite` is the report's wall-clock time divided by theirs, with what it
reads written to the spool and read from there; `step_docs_per_s` the documents that it read in a second.
"""

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import real_servers
from benchmarks.bare import CONTEXT, RECORDS
from benchmarks.job import Job, Plan, Sample
from benchmarks.results import Case
from benchmarks.stages import DEFAULTS, write_all
from benchmarks.workshop import Workshop
from btfeed.flow import clauses, elastic, reading, sources
from btfeed.flow.definition import load
from btfeed.flow.duck import Database, identifier, literal
from btfeed.flow.engine import Engine
from btfeed.flow.fields import TEXT, TIME, TYPE, fields, types
from btfeed.flow.matching import conditions
from btfeed.flow.options import ListOptions, ReportOptions, Source
from btfeed.posts.post import digest
from btfeed.records.mapper import create_mapper
from btfeed.traffic import profile
from btfeed.traffic.generate import GenerateOptions, generate
from sinks.batch import Batch
from sinks.elasticsearch.settings import ElasticsearchSettings
from sinks.elasticsearch.sink import SINK as ELASTICSEARCH
from tests.servers.elasticsearch import Elasticsearch
from tests.servers.installed import missing
from tests.support.harness import peak_memory

PROFILE = "web-shop"
OCCURRENCES = 60
"""So many times the occurrences of a stage: fewer would measure how statements are planned."""
IN_ELASTICSEARCH = 10
"""So many times the occurrences of a stage are indexed there."""
OCCURRENCES_PER_FLOW = 11
COMMAND_FLOWS = 20_000
MEMORY = (None, 150_000_000)
"""Limits: that of the engine, and bytes."""
BUCKETS = 9_000
"""Flows in a page of a composite aggregation: with those of its steps, nearly the most buckets that servers allow."""


def jobs(plan: Plan) -> Iterator[Job]:
    if find_spec("duckdb") is None:
        return
    rounds = plan.rounds_of("flows")
    flows = plan.occurrences * OCCURRENCES // OCCURRENCES_PER_FLOW
    for kind in ("ndjson", "parquet", "extract"):
        yield Job(Case("flows", "report", {"format": kind}), rounds, partial(_beside_scans, flows, kind, rounds, _report))
    yield Job(Case("flows", "trace", {"format": "ndjson"}), rounds, partial(_beside_scans, flows, "ndjson", rounds, _trace))
    if not missing("elasticsearch"):
        few = plan.occurrences * IN_ELASTICSEARCH // OCCURRENCES_PER_FLOW
        yield Job(Case("flows", "report", {"format": "elasticsearch"}), rounds, partial(_beside_composites, few, rounds))
    whole = min(flows, COMMAND_FLOWS)
    for limit in MEMORY:
        case = Case("flows", "whole command", {"flows": whole} | ({"memory": f"{limit // 10**6} MB"} if limit else {}))
        yield Job(case, rounds, partial(_whole, whole, limit, rounds))


def _batches(flows: int) -> Iterator[Batch]:
    """The records of that many visits."""
    mapper = create_mapper(*DEFAULTS)
    for post in generate(GenerateOptions(profile.load(PROFILE), seed=1, visits=flows)):
        yield mapper.map(post.body, digest(post.body)).batch


def _source(workshop: Workshop, flows: int, kind: str) -> Source:
    """The records of that many visits in files."""
    path = workshop.scratch / f"flows-{flows}.ndjson"
    if not path.exists():
        with path.open("wb") as file:
            for batch in _batches(flows):
                file.writelines(batch.parts)
    if kind == "ndjson":
        return Source("files", [path])
    target = path.with_suffix(f".{kind}.parquet")
    if not target.exists():
        with Database() as database:
            relation = f"read_json({literal(str(path))}, format = 'newline_delimited', sample_size = -1)"
            what = f"SELECT * FROM {relation}" if kind == "parquet" else _extract(database, Source("files", [path]))
            database.run(f"COPY ({what}) TO {literal(str(target))} (FORMAT parquet)")
    return Source("files", parquet=[target])


def _extract(database: Database, source: Source) -> str:
    """A SELECT of the steps and ends among the records, with what a report needs of them."""
    definition = load(PROFILE)
    events = f"({reading.place(definition)} IS NOT NULL OR {reading.is_end(definition)})"
    where = f"{clauses.fits(conditions(definition.where))} AND {events}"
    return f"SELECT * FROM ({reading.records(database, source, types(definition))}) WHERE {where}"


def _beside_scans(
    flows: int, kind: str, rounds: int, work: Callable[[Source, str], None], workshop: Workshop
) -> Iterator[Sample]:
    source = _source(workshop, flows, kind)
    with Engine(load(PROFILE), source) as engine:
        records, flow = engine.read.records, engine.flows(ListOptions(limit=1))[0].id
    if kind == "extract":
        with Database() as database:
            records = reading.count(database, _source(workshop, flows, "parquet"), 0)
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
    columns = dict.fromkeys(fields(load(PROFILE)), TEXT)
    counts = ", ".join(f"count({identifier(name)})" for name in columns)
    with Database() as database:
        database.rows(f"SELECT {counts} FROM ({reading.records(database, source, columns)})")


def _report(source: Source, flow: str) -> None:
    with Engine(load(PROFILE), source) as engine:
        engine.report(ReportOptions())


def _trace(source: Source, flow: str) -> None:
    with Engine(load(PROFILE), source) as engine:
        assert engine.trace(flow)


# Elasticsearch


def _beside_composites(flows: int, rounds: int, workshop: Workshop) -> Iterator[Sample]:
    node, index = real_servers.node(workshop), f"flows{workshop.directory().name}"
    records = asyncio.run(_index(node, index, flows))
    node.must("POST", f"/{index}/_forcemerge?max_num_segments=1")
    node.must("POST", f"/{index}/_refresh")
    place = elastic.Place(ElasticsearchSettings.model_validate({"hosts": [node.url]}), index)
    _from_elasticsearch(place)  # both once for the server's compiler
    before = _composite(node, index)[1]
    for _ in range(rounds):
        cpu, wall = time.process_time(), time.perf_counter()
        started, documents = _from_elasticsearch(place)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        found, after = _composite(node, index)
        assert found >= started > 0, f"the aggregation found {found} flows, the report {started}"
        yield {
            "cpu_us": cpu / records * 1e6,
            "x_composite": wall / ((before + after) / 2),
            "step_docs_per_s": documents / wall,
            "wall_ms": wall * 1000,
            "composite_ms": (before + after) / 2 * 1000,
        }
        before = after
    real_servers.forget(node, index)


async def _index(node: Elasticsearch, index: str, flows: int) -> int:
    """Write the records with the sink. Returns their number."""
    batches: list[Batch] = []
    waiting: list[Batch] = []
    for batch in _batches(flows):
        waiting.append(batch)
        if sum(map(len, waiting)) >= RECORDS:
            batches.append(Batch.concat(waiting))
            waiting = []
    batches += [Batch.concat(waiting)] if waiting else []
    settings = ElasticsearchSettings.model_validate({"hosts": [node.url], "index": index})
    sink = ELASTICSEARCH.create(settings, CONTEXT)
    await sink.open(None)
    await write_all(sink, batches, ELASTICSEARCH.delivery["in_flight"])
    await sink.close()
    return sum(map(len, batches))


def _from_elasticsearch(place: elastic.Place) -> tuple[int, int]:
    """A report: how many flows it has, and how many documents were read for it."""
    definition = load(PROFILE)
    with sources.spool() as spool:
        scan = elastic.read(place, definition, fields(definition), spool)
        with Engine(definition, scan.source) as engine:
            report = engine.report(ReportOptions())
            return report.figures.counts.started, engine.read.records


def _composite(node: Elasticsearch, index: str) -> tuple[int, float]:
    """The first time of each step of each flow, out of the same documents: the number of flows, and seconds."""
    definition, found, after = load(PROFILE), 0, None
    (flow,) = definition.correlations
    first = {"t": {"min": {"field": TIME}}}
    alone = (definition.model_copy(update={"steps": [step], "ends": None}) for step in definition.steps)
    steps = {f"s{rank}": {"filter": elastic.query(step, {TYPE}), "aggs": first} for rank, step in enumerate(alone)}
    query = elastic.query(definition, {TYPE, "event.provider", "event.category"})
    start = time.perf_counter()
    while True:
        by: dict[str, Any] = {"size": BUCKETS, "sources": [{"flow": {"terms": {"field": flow}}}]}
        by |= {"after": after} if after else {}
        body = {"size": 0, "query": query, "aggs": {"flows": {"composite": by, "aggs": steps}}}
        answer = node.must("POST", f"/{index}/_search", body)["aggregations"]["flows"]
        found += len(answer["buckets"])
        after = answer.get("after_key")
        if after is None:
            return found, time.perf_counter() - start


# Whole commands


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
