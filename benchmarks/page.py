"""A result as pictures (SVG and PNG), and as an HTML page of pictures, tables and raw JSON that needs no other file."""

import html
import json
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.findings import FLAT, GROWING, few_connections, growths, posts, reserves
from benchmarks.peers import PEERS
from benchmarks.plots import PICTURES, STYLE
from benchmarks.results import Case, Result

TITLES = {
    "throughput": "Throughput and CPU",
    "stages": "Where the time goes",
    "stages-plain": "Where the time goes without the native transcoder",
    "sinks": "What the writes of each sink cost",
    "latency": "Latency",
    "growth": "What grows",
    "hour": "Over time",
    "peers": "Other servers",
}
NOTES = {
    "throughput": "Posts leave as fast as answers come, with an fsync before each answer. Points are medians; bars reach "
    "from the lowest round to the highest.",
    "stages": "Each stage alone, in a separate process. The whole server adds HTTP and the event loop.",
    "stages-plain": "The plain path runs if the native transcoder was not built.",
    "latency": "Posts leave at a fixed rate, whatever the answers. Latency counts from the time at which a post was due.",
    "sinks": "The writes of each sink alone, to a black hole that takes everything; the file sink writes to the disk.",
    "growth": "Only one thing grows in each picture. A flat line means that more of it costs nothing.",
    "hour": "A steady rate, with one point a minute.",
    "peers": "The same posts from the same load generator; the records are counted at the end.",
}
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0 } td, th { padding: 2px 10px; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #f5f5f5 }
svg { max-width: 100%; height: auto }
pre { white-space: pre-wrap; background: #f5f5f5; padding: 1rem; font-size: 12px }
"""


def write(result: Result, directory: Path) -> None:
    """Write index.html and the pictures into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    pictures = {}
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # the stubs know no mapping of mixed values
        for name, draw in PICTURES.items():
            figure = draw(result)
            if figure:
                pictures[name] = _save(figure, directory / name)
    (directory / "index.html").write_text("\n".join(_page(result, pictures)) + "\n", encoding="utf-8")


def _save(figure: Figure, path: Path) -> str:
    """Save the PNG and the SVG. Returns the SVG for use in HTML."""
    figure.savefig(path.with_suffix(".png"), dpi=110)
    written = BytesIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    text = "\n".join(line.rstrip() for line in written.getvalue().decode().splitlines()) + "\n"
    path.with_suffix(".svg").write_text(text, encoding="utf-8")
    return text[text.index("<svg") :]


def _page(result: Result, pictures: dict[str, str]) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>btfeed: benchmarks</title>'
    yield f"<style>{CSS}</style></head>"
    yield "<body><h1>What btfeed costs</h1>"
    yield from _about(result.about)
    for name, svg in pictures.items():
        yield f"<h2>{TITLES[name]}</h2>\n<p>{html.escape(NOTES[name])}</p>\n{svg}"
        if name in BELOW:
            yield from BELOW[name](result)
    yield "<h2>All cases</h2>"
    groups = list(dict.fromkeys(case.group for case in result.cases))
    for group in groups:
        yield from _table(group, list(result.of(group)))
    raw = json.dumps({"about": result.about, "cases": [vars(case) for case in result.cases], "failures": result.failures})
    yield f'<h2>Raw</h2><details><summary>JSON</summary><pre id="raw">{html.escape(raw)}</pre></details></body></html>'


def _about(about: dict[str, Any]) -> Iterator[str]:
    yield "<table>"
    for name, value in about.items():
        told = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else value
        yield f"<tr><td>{html.escape(name)}</td><td style='text-align:left'>{html.escape(str(told))}</td></tr>"
    yield "</table>"


def _reserves(result: Result) -> Iterator[str]:
    found = list(reserves(result))
    if not found:
        return
    yield "<p>Does the load generator limit these rates? The table compares its rate against a black hole with the highest"
    yield "rate at which a server answered posts of that size, and shows how busy the generator's core was at most.</p>"
    rows = [
        (
            f"{one.size:,}",
            f"{one.alone:,.0f}",
            f"{one.rate:,.0f} ({one.fastest.group}: {one.fastest.name})",
            f"{one.ratio:.1f}",
            f"{one.busy:.0%}",
            "no" if one.enough else "maybe",
        )
        for one in found
    ]
    columns = ("occurrences in a post", "black hole, occurrences / s", "fastest server", "ratio", "core busy", "limits")
    yield from _rows(columns, rows)


def _posts(result: Result) -> Iterator[str]:
    """Small posts, by the connections that they come over."""
    if not (found := posts(result)):
        return
    yield f"<p>Posts as AppMon sends them. {html.escape(' '.join(few_connections(result)))}</p>"
    rows = [
        (
            f"{post.size} over {post.connections}",
            post.name,
            f"{post.per_s:,.0f}",
            f"{post.cpu_us:,.0f}",
            f"{post.case.median('x_parse'):.1f}",
        )
        for post in found
    ]
    yield from _rows(("occurrences, connections", "taken by", "posts / s", "CPU a post, µs", "× parse"), rows)


def _throughput(result: Result) -> Iterator[str]:
    yield from _posts(result)
    yield from _reserves(result)


def _growths(result: Result) -> Iterator[str]:
    yield f"<p>A cost is flat if it differs by less than {FLAT - 1:.0%}, or by less than its rounds differ.</p>"
    rows = [
        (
            one.name,
            GROWING[one.quantity],
            " · ".join(f"{place:,.0f}: {_short(spread.median)}" for place, spread in one.points),
            f"{one.ratio:.2f}",
            one.verdict,
        )
        for one in growths(result)
    ]
    yield from _rows(("what grows", "cost", "how much there was: cost", "last / first", "verdict"), rows)


def _lacks(result: Result) -> Iterator[str]:
    yield "<p>What these servers do not do:</p><ul>"
    for name in dict.fromkeys(case.name for case in result.of("peers")):
        told = "; ".join(lack.text for lack in PEERS[name].lacks)
        yield f"<li>{html.escape(name)}: {html.escape(told)}</li>"
    yield "</ul>"


BELOW = {"throughput": _throughput, "growth": _growths, "peers": _lacks}
"""The text below a picture."""


def _rows(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "<table><tr>" + "".join(f"<th>{html.escape(column)}</th>" for column in columns) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
    yield "</table>"


def _table(group: str, cases: list[Case]) -> Iterator[str]:
    """Medians, with the lowest and the highest round."""
    quantities = list(dict.fromkeys(name for case in cases for name in case.samples))
    yield f"<h3>{html.escape(group)}</h3><table><tr><th>case</th>"
    yield "".join(f"<th>{html.escape(name)}</th>" for name in quantities) + "</tr>"
    for case in cases:
        cells = "".join(f"<td>{_cell(case, name)}</td>" for name in quantities)
        yield f"<tr><td>{html.escape(case.key.removeprefix(group + ': '))}</td>{cells}</tr>"
    yield "</table>"


def _cell(case: Case, quantity: str) -> str:
    if quantity not in case.samples:
        return ""
    spread = case.spread(quantity)
    if spread.rounds == 1:
        return _short(spread.median)
    return f"{_short(spread.median)} <small>{_short(spread.least)}..{_short(spread.most)}</small>"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
