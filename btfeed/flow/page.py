"""A report as one HTML file: without script, and without a request to anywhere, so that it can be sent and kept.

Numbers are written as the text report writes them (words.py, text.py), pictures are SVG in the page.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import zip_longest
from pathlib import Path
from zoneinfo import ZoneInfo

from jinja2 import Environment
from markupsafe import Markup

from btfeed.flow import text, words
from btfeed.flow.pictures import funnel, multiple, times
from btfeed.flow.report import Change, Figures, Report, Series
from btfeed.flow.terms import TERMS
from btfeed.flow.ways import stretch, ways
from btfeed.flow.words import money, number, percent
from btfeed.page import page as admin
from btfeed.page.templating import environment
from btfeed.page.wording import count
from btfeed.telemetry.printable import printable

HERE = Path(__file__).parent
STYLE = admin.HERE / "static" / "page.css"
"""The stylesheet of the page of the admin listener: both look the same."""
MOST_WAYS = 20
"""Rows of the table of ways that the definition does not have."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure. change: against the compared period, in words. tone: `up`, `down`, or nothing."""

    name: str
    value: str
    note: str
    change: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """title: above it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Multiple:
    """The course of one number.

    top, bottom  the values at the edges
    zero         how far from the upper to the lower edge 0 is, from 0 to 1, if it is not at one of them
    begin, end   of the axis
    """

    title: str
    svg: Markup
    top: str
    bottom: str
    zero: float | None
    begin: str
    end: str


def render(report: Report, zone: ZoneInfo) -> str:
    """The page. zone: in which moments are told."""
    figures = report.figures
    promised = targets(figures)
    template = _environment().get_template("flow.html")
    return template.render(
        report=report,
        css=_style(),
        period=text.period(report, zone),
        tiles=list(_tiles(report)),
        compared=_compared(report, zone),
        funnel=funnel(figures),
        late=figures.counts.late,
        ways=ways(figures.steps, report.transitions),
        stretch=stretch(len(figures.steps)),
        times=times(figures.times, promised),
        targets=promised,
        multiples=list(_multiples(report, zone)),
        steps=Table(text.STEP_HEAD, [text.step_row(step) for step in figures.steps]),
        splits=list(_splits(report)),
        lists=list(_lists(report, zone)),
        odd=_odd(report),
        terms=TERMS,
        table=_table,
        count=count,
    )


def targets(figures: Figures) -> dict[tuple[str, str], float]:
    """(step before, step) -> the time that is promised, in milliseconds."""
    return {(s.before[0], s.name): s.target for s in figures.steps if s.before and s.target is not None}


def _style() -> Markup:
    own = HERE / "templates" / "flow.css"
    texts = (file.read_text(encoding="utf-8") for file in (STYLE, own))
    return Markup("\n".join(texts))  # noqa: S704 - they are part of the program


def _tiles(report: Report) -> Iterator[Tile]:
    figures, changes = report.figures, report.compare.changes if report.compare else {}
    counts, rate = figures.counts, figures.conversion
    started = f"{number(counts.open)} still open" if counts.open else "all of them over"
    yield _tile("Flows started", number(counts.started), started, changes.get("started"))
    interval = f"{percent(rate.low)} to {percent(rate.high)}" if rate.rate is not None else ""
    late = f"{number(counts.late)} late, " if counts.late else ""
    note = f"{number(counts.converted)} converted, {late}{interval}"
    yield _tile("Conversion", percent(rate.rate), note, changes.get("conversion"), good=1)
    if value := figures.value:
        told = {"lost": text.shortly(value.lost, value.unit), "late": text.shortly(value.late, value.unit)}
        note = "; ".join(f"{name} {worth}" for name, worth in told.items() if worth) or f"in {count(value.valued, 'flow')}"
        yield _tile(f"{value.label} won", money(value.won, value.unit), note, changes.get("value.won"), good=1)
    found = figures.exceptions
    note = f"{number(found.exceptions)} of {count(found.attempts, 'event')}, in {count(found.flows, 'flow')}"
    yield _tile("Exceptions", percent(found.rate), note, changes.get("exception_rate"), good=-1)
    spread = figures.duration
    note = f"95 % within {words.time(spread.p95)}, average {words.time(spread.average)}"
    yield _tile("Start to goal, half within", words.time(spread.median), note, changes.get("duration.median"), good=-1)


def _tile(name: str, value: str, note: str, change: Change | None, good: int = 0) -> Tile:
    """good: 1 if more is better, -1 if less is."""
    if change is None:
        return Tile(name, value, note)
    told = words.change(change.now, change.before, change.change, change.points, change.noise)
    tone = ""
    if good and change.change and not change.noise:
        tone = "up" if change.change * good > 0 else "down"
    return Tile(name, value, note, told, tone)


def _compared(report: Report, zone: ZoneInfo) -> str:
    if report.compare is None:
        return ""
    period = report.compare.period
    begin, end = words.moment(period.begin, zone), words.moment(period.end, zone)
    return f"Compared with {begin} to {end}, as it stood at {words.moment(report.compare.as_of, zone)}."


Course = Callable[[Figures], float | None]


def _courses(figures: Figures) -> Iterator[tuple[str, Course, Callable[[float | None], str]]]:
    """Title, the number, and how it is written."""
    yield "Flows started", lambda each: each.counts.started, number
    yield "Conversion", lambda each: each.conversion.rate, percent
    if figures.value:
        unit = figures.value.unit
        yield f"{figures.value.label} won", lambda each: each.value.won if each.value else None, partial(money, unit=unit)
    yield "Dropped", lambda each: each.counts.dropped, number
    yield "Exceptions", lambda each: each.exceptions.rate, percent
    yield "Start to goal, half within", lambda each: each.duration.median, words.time


def _multiples(report: Report, zone: ZoneInfo) -> Iterator[Multiple]:
    now, before = report.series, report.compare.series if report.compare else None
    if not now.rows:
        return
    begin, end = (words.tick(at, now.bucket, zone) for at in (now.rows[0].begin, now.rows[-1].end))
    for place, (title, course, written) in enumerate(_courses(report.figures)):
        values = _values(now, course)
        earlier = _values(before, course) if before else []
        padded = [old for _, old in zip_longest(values, earlier)][: len(values)] if earlier else []
        svg, axis = multiple(f"series-{place}", title, now, values, padded, written)
        top, bottom = (written(edge) if edge else "0" for edge in (axis.high, axis.low))
        zero = axis.high / (axis.high - axis.low) if axis.low < 0 < axis.high else None
        yield Multiple(title, svg, top, bottom, zero, begin, end)


def _values(series: Series, course: Course) -> list[float | None]:
    return [course(row.figures) for row in series.rows]


def _splits(report: Report) -> Iterator[Table]:
    for name, parts in report.splits.items():
        yield Table(text.split_head(name), [text.part_row(part) for part in parts])


def _lists(report: Report, zone: ZoneInfo) -> Iterator[Table]:
    for name, flows in report.lists.items():
        if flows:
            yield Table(text.LIST_HEAD, [text.list_row(flow, zone) for flow in flows], text.LISTS[name].capitalize())


def _odd(report: Report) -> Table:
    rows = [
        (each.begin, each.to, number(each.n), words.time(each.gap.median), ", ".join(each.flows))
        for each in report.transitions
        if each.way is None
    ]
    return Table(("from", "to", "times", "half within", "such as flow"), rows[:MOST_WAYS])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], first: str = "") -> Markup:
    """A table without columns that are empty. first: class of the cells of the first column."""
    used = [column for column in range(len(head)) if not rows or any(row[column] for row in rows)]
    texts = [place for place, column in enumerate(used) if head[column] in _TEXTS or not column]
    shown = [[row[column] for column in used] for row in rows]
    template = _environment().get_template("table.html")
    return Markup(template.render(head=[head[column] for column in used], rows=shown, texts=texts, first=first))  # noqa: S704 - escaped


_TEXTS = {"start", "state", "furthest", "last event", "to", "such as flow"}


def _shown(value: object) -> object:
    """What would hide in the words around it, or turn them, as an escape."""
    return printable(value) if type(value) is str else value


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = environment(HERE / "templates", finalize=_shown)
    made.filters |= {"number": number}
    return made
