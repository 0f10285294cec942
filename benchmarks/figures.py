"""The figures in the documentation, from the committed result. `make docs` writes them, and `make lint` compares them."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers import PEERS
from benchmarks.results import Case, Result

RESULT = Path(__file__).parent / "results" / "readme.json"


def tables() -> Iterator[str]:
    """The lines of the tables, in Markdown."""
    result = Result.load(RESULT)
    machine = result.about["machine"]
    yield (
        f"`{result.about['command']}` at commit {result.about['commit']}, {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory_gib']:.0f} GiB, Python {result.about['versions']['python']}:"
    )
    yield ""
    yield "| records go to | occurrences a post | occurrences/s | CPU, µs | × parse (least, most) | 99 % of answers, ms |"
    yield "|---|---|---|---|---|---|"
    cases = sorted(result.of("whole server"), key=lambda case: (case.parameters["occurrences"] != 1_000, _size(case)))
    yield from map(_server, cases)
    yield ""
    yield "| at a fixed rate, to files | half of the answers, ms | 99 % | 99.9 % |"
    yield "|---|---|---|---|"
    yield from map(_latency, result.of("latency"))
    yield ""
    yield "| tool | occurrences/s |"
    yield "|---|---|"
    for case in result.of("sources"):
        yield f"| `btfeed {case.name}`{_of(case)} | {case.median('occurrences_per_s'):,.0f} |"
    yield from _peers(list(result.of("peers")))


def _size(case: Case) -> int:
    return int(case.parameters["occurrences"])


def _server(case: Case) -> str:
    ratio = case.spread("x_parse")
    told = {"none": "no sink", "all": "all of these at once"}.get(case.name, case.name)
    return (
        f"| {told} | {_size(case):,} | {case.median('occurrences_per_s'):,.0f} | {case.median('cpu_us'):.1f} "
        f"| {ratio.median:.1f} ({ratio.least:.1f}, {ratio.most:.1f}) | {case.median('ack_p99_ms'):.1f} |"
    )


def _latency(case: Case) -> str:
    points = (f"{case.median(f'ack_{point}_ms'):.1f}" for point in ("p50", "p99", "p99.9"))
    return f"| {case.parameters['posts_per_s']} posts of 100 a second | {' | '.join(points)} |"


def _of(case: Case) -> str:
    return f" {case.parameters['profile']}, to a file" if "profile" in case.parameters else " to a black hole"


def _peers(cases: list[Case]) -> Iterator[str]:
    if not cases:
        return
    yield ""
    yield "| others at the same work | occurrences in a post | occurrences/s | CPU, µs |"
    yield "|---|---|---|---|"
    for case in cases:
        rate, cost = case.median("occurrences_per_s"), case.median("cpu_us")
        yield f"| {case.name} | {_size(case):,} | {rate:,.0f} | {cost:.1f} |"
    yield ""
    yield "What these do not do:"
    yield ""
    for name in dict.fromkeys(case.name for case in cases):
        yield f"- {name}: {'; '.join(lack.text for lack in PEERS[name].lacks)}"
