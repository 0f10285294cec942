"""The tables of figures in README.md and docs/benchmarks.md, made from the committed result.

`make docs` writes them into the pages, and `make lint` fails when they are out of date.
"""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.findings import few_connections, posts, usual
from benchmarks.peers import PEERS
from benchmarks.results import Case, Result

RESULT = Path(__file__).parent / "results" / "readme.json"
SHORT = {
    "none": "the journal only (no sink)",
    "file": "files",
    "bizevents": "Dynatrace bizevents (stand-in)",
    "kafka": "Kafka (real server)",
    "elasticsearch": "Elasticsearch (real server)",
}
"""The rows of README.md: names of "whole server" cases, and how the table calls them."""
SHORT_SIZE = 1_000


def short() -> Iterator[str]:
    """Markdown for README.md: one row per destination."""
    result = Result.load(RESULT)
    cores = result.about["machine"]["cores"]
    yield f"Posts of {SHORT_SIZE:,} occurrences on {cores} cores, with an fsync before every answer:"
    yield ""
    yield "| records go to | occurrences/s | CPU per occurrence | 99 % of posts answered within |"
    yield "|---|---|---|---|"
    for name, label in SHORT.items():
        (case,) = result.of("whole server", name, occurrences=SHORT_SIZE)
        rate, cost, answer = (case.median(quantity) for quantity in ("occurrences_per_s", "cpu_us", "ack_p99_ms"))
        yield f"| {label} | {rate:,.0f} | {cost:.1f} µs | {answer:.0f} ms |"


def tables() -> Iterator[str]:
    """Markdown for docs/benchmarks.md: everything in the result."""
    result = Result.load(RESULT)
    machine = result.about["machine"]
    yield (
        f"`{result.about['command']}` at commit {result.about['commit']}, {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory_gib']:.0f} GiB, Python {result.about['versions']['python']}:"
    )
    yield ""
    yield "| records go to | occurrences per post | occurrences/s | CPU, µs | × parse (least, most) | p99 answer, ms |"
    yield "|---|---|---|---|---|---|"
    usually = [case for case in result.of("whole server") if usual(case)]
    cases = sorted(usually, key=lambda case: (case.parameters["occurrences"] != SHORT_SIZE, _size(case)))
    yield from map(_server, cases)
    yield from _posts(result)
    yield ""
    yield "| at a fixed rate, to files | p50 answer, ms | p99 | p99.9 |"
    yield "|---|---|---|---|"
    yield from map(_latency, result.of("latency"))
    yield ""
    yield "| tool | occurrences/s |"
    yield "|---|---|"
    for case in result.of("sources"):
        yield f"| `btfeed {case.name}`{_of(case)} | {case.median('occurrences_per_s'):,.0f} |"
    yield from _flows(list(result.of("flows", "report")))
    yield from _peers([case for case in result.of("peers") if usual(case)])


def _size(case: Case) -> int:
    return int(case.parameters["occurrences"])


def _server(case: Case) -> str:
    ratio = case.spread("x_parse")
    label = {"none": "no sink", "all": "all four at once"}.get(case.name, case.name)
    return (
        f"| {label} | {_size(case):,} | {case.median('occurrences_per_s'):,.0f} | {case.median('cpu_us'):.1f} "
        f"| {ratio.median:.1f} ({ratio.least:.1f}, {ratio.most:.1f}) | {case.median('ack_p99_ms'):.1f} |"
    )


def _posts(result: Result) -> Iterator[str]:
    """Small posts by the connections that they come over, with those of peers below btfeed's."""
    if not (found := posts(result)):
        return
    yield ""
    yield "| occurrences per post | connections | taken by | posts/s | CPU per post, µs | × parse | p99 answer, ms |"
    yield "|---|---|---|---|---|---|---|"
    for post in found:
        yield (
            f"| {post.size} | {post.connections} | {post.name} | {post.per_s:,.0f} | {post.cpu_us:,.0f} "
            f"| {post.case.median('x_parse'):.1f} | {post.case.median('ack_p99_ms'):.1f} |"
        )
    told = " ".join(few_connections(result))
    if told:
        yield ""
        yield told


def _latency(case: Case) -> str:
    points = (f"{case.median(f'ack_{point}_ms'):.1f}" for point in ("p50", "p99", "p99.9"))
    return f"| {case.parameters['posts_per_s']} posts/s, 100 occurrences each | {' | '.join(points)} |"


def _of(case: Case) -> str:
    return f" {case.parameters['profile']}, to a file" if "profile" in case.parameters else " to a black hole"


BESIDE = {"x_scan": "CPU of a bare scan", "x_composite": "time of a composite aggregation"}
"""What reports of flows are compared with, by quantity."""


def _flows(cases: list[Case]) -> Iterator[str]:
    if not cases:
        return
    yield ""
    yield "| report of flows, records in | CPU a record, µs | beside |"
    yield "|---|---|---|"
    for case in cases:
        (quantity,) = case.samples.keys() & BESIDE.keys()
        ratio = case.spread(quantity)
        beside = f"{ratio.median:.1f} ({ratio.least:.1f}, {ratio.most:.1f}) × the {BESIDE[quantity]}"
        yield f"| {case.parameters['format']} | {case.median('cpu_us'):.2f} | {beside} |"


def _peers(cases: list[Case]) -> Iterator[str]:
    if not cases:
        return
    yield ""
    yield "| other servers, same work | occurrences per post | occurrences/s | CPU, µs |"
    yield "|---|---|---|---|"
    for case in cases:
        rate, cost = case.median("occurrences_per_s"), case.median("cpu_us")
        yield f"| {case.name} | {_size(case):,} | {rate:,.0f} | {cost:.1f} |"
    yield ""
    yield "What btfeed does and they do not:"
    yield ""
    for name in dict.fromkeys(case.name for case in cases):
        yield f"- {name}: {'; '.join(lack.text for lack in PEERS[name].lacks)}"
