"""Makes the HTML: templates are filled with a snapshot, so what is shown first and what comes later are the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, Template
from markupsafe import Markup

from btfeed.page import view, wording
from btfeed.page.charts import Series, buckets, stacked
from btfeed.page.templating import environment
from btfeed.page.wording import clock, duration, number, short_clock
from btfeed.telemetry.printable import printable
from btfeed.telemetry.wording import MAX_NAME, cut, size

HERE = Path(__file__).parent
STATIC: Mapping[str, str] = {"page.css": "text/css", "page.js": "text/javascript"}
"""Files of `static`, and their types."""
SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'"
    " data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MAX_ROWS = 50
"""Rows of a table."""
MAX_JSON = 20_000
"""Characters of a record that are shown."""
RELOAD_SECONDS = 10
"""Without script, the browser gets the page again after so many seconds."""


@dataclass(frozen=True, slots=True)
class Span:
    """A time of which there is a chart. key: its name in the history. rows, per: of its table."""

    key: str
    title: str
    rows: int
    per: str


SPANS = (Span("15m", "Last 15 minutes", 15, "minute"), Span("24h", "Last 24 hours", 24, "hour"))


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with what stands around it, and the same as a table: rows of time and value.

    known: whether it has a point. step: seconds between points
    """

    id: str
    title: str
    svg: Markup
    top: str
    middle: str
    begin: str
    rows: Sequence[tuple[str, str]]
    per: str
    known: bool
    step: float


def render(
    status: Mapping[str, Any],
    history: Mapping[str, Any],
    records: Mapping[str, Any] | None,
    transaction: str,
    *,
    session: bool,
) -> str:
    """The page.

    records      the newest ones; None if the reader may not see them
    transaction  of which records are shown; "" for all. A long name is cut as in the snapshot
    session      whether the reader has signed in
    """
    now, status = status["time"], _printable(status)
    return _template("page.html").render(
        status=status,
        view=view.of(status),
        figures=[_figure(history[span.key], span, "occurrences") for span in SPANS],
        sink_charts=_sink_charts(history["15m"], status["sinks"]),
        records=records,
        transaction=transaction,
        session=session,
        configuration=_json(status["configuration"], MAX_JSON) if status["configuration"] else None,
        clock=partial(clock, now=now),
        ago=partial(wording.ago, now=now),
        max_rows=MAX_ROWS,
        max_name=MAX_NAME,
        reload_seconds=RELOAD_SECONDS,
    )


def login(version: str, error: str = "") -> str:
    """The page for a reader who has yet to sign in. error: why a token was not taken."""
    return _template("login.html").render(status={"version": version}, error=error)


def _printable(value: Any) -> Any:
    """The same with escapes in each text for what would hide in the page's own words around it, or turn them."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {key: _printable(inner) for key, inner in value.items()}
    return [_printable(inner) for inner in value] if isinstance(value, list | tuple) else value


def _figure(history: Mapping[str, Any], span: Span, unit: str) -> Figure:
    """unit: the series, and what its values are a second."""
    step, end, values = history["step_seconds"], history["end"], history[unit]
    begin = end - step * 1000 * (len(values) - 1)
    known = [value for value in values if value is not None]
    text = "Nothing is known yet."
    if known:
        text = f"At most {number(max(known))}, on average {number(sum(known) / len(known))}."
    name = f"chart-{span.per}"
    series = (Series(unit, tuple(values), "series-1"),)
    svg, top = _stacked(series, name, f"{unit.capitalize()} a second. {span.title}", text)
    means = buckets(values, span.rows)
    width = step * 1000 * -(-len(values) // span.rows)
    rows = [(short_clock(begin + index * width), number(value)) for index, value in enumerate(means)]
    return Figure(
        name, span.title, svg, number(top), number(top / 2), short_clock(begin), rows, span.per, bool(known), step
    )


def _sink_charts(span: Mapping[str, Any], sinks: Mapping[str, Any]) -> dict[str, tuple[Markup, str]]:
    """Name -> the records that it got a second, and the upper edge."""
    found = {}
    for index, name in enumerate(sinks):
        if values := span["sinks"].get(name, {}).get("delivered"):
            series = (Series("records", tuple(values), "series-2"),)
            title = f"Records a second to {cut(name, 60)}. Last 15 minutes"
            svg, top = _stacked(series, f"sink-chart-{index}", title, f"Up to {number(top_of(values))}.")
            found[name] = svg, number(top)
    return found


def top_of(values: Sequence[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)


@lru_cache(maxsize=64)
def _stacked(series: tuple[Series, ...], id: str, title: str, text: str) -> tuple[Markup, float]:
    """History changes less often than the page is made, and all readers see the same."""
    return stacked(series, id=id, title=title, text=text)


def _json(value: Any, length: int = MAX_JSON) -> str:
    """Indented. value: also one that is encoded already (msgspec.Raw)."""
    return cut(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), length)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = environment(HERE / "templates")
    made.filters |= {
        "number": number,
        "size": size,
        "duration": duration,
        "cut": cut,
        "iso": wording.iso,
        "moment": wording.moment,
        "sentence": wording.sentence,
        "pretty": _json,
    }
    made.globals["count"] = wording.count
    return made


def _template(name: str) -> Template:
    return _environment().get_template(name)
