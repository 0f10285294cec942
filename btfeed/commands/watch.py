"""What `btfeed status --watch` shows: a table on a terminal, a line each time otherwise."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from btfeed.commands.admin_client import AdminError, NotRunning
from btfeed.commands.terminal import fail
from btfeed.records.encoding import rfc3339
from btfeed.signals import Interrupted, StopSignals
from btfeed.telemetry.printable import printable
from btfeed.telemetry.trends import (
    Sample,
    Trends,
    delivered_records,
    received_occurrences,
    received_posts,
    refused_posts,
)
from btfeed.telemetry.wording import count, duration, size
from sinks.shared.clock import SYSTEM_CLOCK

MAX_ERROR = 300
"""Characters of a sink's last error that are shown."""


class View:
    """The trends of a server, and whether it answers. away: since when not (milliseconds since the epoch), and why."""

    def __init__(self) -> None:
        self.trends = Trends()
        self.away: tuple[int, str] | None = None

    def update(self, at: float, now: int, ask: Callable[[], bytes]) -> bytes | None:
        """Ask the server. Returns its answer, or None if it does not answer. Raises AdminError if it never did, and waiting
        does not help.

        at, now: the time in seconds of a clock that does not jump, and in milliseconds since the epoch
        """
        try:
            answer = ask()
        except AdminError as error:
            if not isinstance(error, NotRunning) and self.trends.last is None:
                raise
            self.away = (self.away[0] if self.away else now, str(error))
            return None
        self.away = None
        self.trends.add(Sample(at, json.loads(answer)))
        return answer


def run(ask: Callable[[], bytes], interval: float, as_json: bool) -> None:
    """Ask and show until a signal comes. interval: in seconds."""
    view, stop = View(), StopSignals()
    shows = _lines if as_json or not sys.stdout.isatty() else _table
    try:
        with stop.handled(), stop.interrupting():
            shows(view, ask, interval, as_json)
    except Interrupted:
        pass
    except AdminError as error:
        fail(str(error))


def _updates(view: View, ask: Callable[[], bytes], interval: float) -> Iterator[bytes | None]:
    while True:
        began = SYSTEM_CLOCK.monotonic()
        yield view.update(began, _now(), ask)
        time.sleep(max(0.0, began + interval - SYSTEM_CLOCK.monotonic()))


def _table(view: View, ask: Callable[[], bytes], interval: float, as_json: bool) -> None:
    with Live(console=Console(), auto_refresh=False) as live:
        for _ in _updates(view, ask, interval):
            live.update(table(view, _now()), refresh=True)


def _lines(view: View, ask: Callable[[], bytes], interval: float, as_json: bool) -> None:
    for answer in _updates(view, ask, interval):
        if not as_json:
            typer.echo(printable(f"{rfc3339(_now())}  {line(view)}"))
        elif answer is None and view.away:
            typer.echo(printable(view.away[1]), err=True)
        else:
            typer.echo(answer)


def _now() -> int:
    """Milliseconds since the epoch."""
    return round(SYSTEM_CLOCK.time() * 1000)


# As a line


def line(view: View) -> str:
    """The state in one line."""
    if view.away or not view.trends.last:
        return view.away[1] if view.away else ""
    status = view.trends.last.status
    parts = ["ready" if status["ready"] else f"NOT READY: {status['refusing']}", *_received(view.trends)]
    parts.append(f"journal {_journal(view.trends)}")
    for name, sink in status["sinks"].items():
        parts.append(
            ", ".join([f"{name}: {sink['state']}", *_rate(view.trends, _delivered(name), "records"), _backlog(sink)])
        )
    if waiting := _waiting(status):
        parts.append(waiting)
    return "; ".join(parts)


# As a table


def table(view: View, now: int) -> RenderableType:
    """The state as a table, with the last errors below. now: milliseconds since the epoch."""
    shown: list[RenderableType] = []
    if view.away:
        since, why = view.away
        shown.append(_text(f"no answer since {rfc3339(since)}: {why}", "bold red"))
    if not view.trends.last:
        return Group(*shown)
    status = view.trends.last.status
    dim = "dim" if view.away else ""
    state = f"btfeed {status['version']}, up {duration(status['uptime_seconds'])}, "
    ready = Text("ready", "green") if status["ready"] else _text(f"NOT READY: {status['refusing']}", "bold red")
    shown.append(Text.assemble(state, ready, style=dim))
    shown.append(Text(f"receives {', '.join(_received(view.trends)) or '...'}", dim))
    shown.append(Text(f"journal {_journal(view.trends)}", dim))
    if waiting := _waiting(status):
        shown.append(Text(waiting, "yellow"))
    shown.append(_sinks(view.trends, status, dim))
    shown += [_text(error, "") for error in _errors(status, now)]
    return Group(*shown)


def _sinks(trends: Trends, status: dict[str, Any], style: str) -> Table:
    found = Table(box=box.SIMPLE_HEAD, style=style, pad_edge=False)
    found.add_column("sink", overflow="fold")
    found.add_column("state")
    for heading in ("records/s", "posts behind", "oldest"):
        found.add_column(heading, justify="right")
    for name, sink in status["sinks"].items():
        posts, rate = sink["backlog_posts"], trends.rate(_delivered(name))
        found.add_row(
            _text(name, ""),
            Text(sink["state"], "green" if sink["state"] == "running" else "yellow"),
            "..." if rate is None else _figure(rate),
            "unknown" if posts is None else f"{posts:,}",
            duration(sink["backlog_age_seconds"]) if posts else "-",
        )
    return found


def _errors(status: dict[str, Any], now: int) -> Iterator[str]:
    """The last error of each sink, and the destinations that take nothing."""
    for name, sink in status["sinks"].items():
        if sink["last_error"]:
            at = sink["last_error_time"]
            when = "error" if at is None else f"last error at {rfc3339(at)} ({duration(max(0, now - at) / 1000)} ago)"
            yield f"{name}, {when}: {sink['last_error'][:MAX_ERROR]}"
        for blocked in sink["blocked"]:
            waiting = count(blocked["waiting"], "record")
            yield f"{name}, {blocked['destination']} takes nothing, {waiting} waiting: {blocked['reason'][:MAX_ERROR]}"


def _text(text: str, style: str) -> Text:
    """What others may have written, as a terminal can show it."""
    return Text(printable(text), style)


# What both say


def _received(trends: Trends) -> Iterator[str]:
    yield from _rate(trends, received_posts, "posts")
    yield from _rate(trends, received_occurrences, "occurrences")
    refused = trends.rate(refused_posts)
    if refused:
        yield f"{_figure(refused)} requests refused/s"


def _rate(trends: Trends, counted: Callable[[dict[str, Any]], float], what: str) -> Iterator[str]:
    """Nothing if it is not known yet."""
    rate = trends.rate(counted)
    if rate is not None:
        yield f"{_figure(rate)} {what}/s"


def _figure(rate: float) -> str:
    return f"{rate:,.1f}" if 0 < rate < 10 else f"{rate:,.0f}"


def _delivered(name: str) -> Callable[[dict[str, Any]], float]:
    return lambda status: delivered_records(status, name)


def _journal(trends: Trends) -> str:
    trend = trends.journal()
    if trend is None:
        last = trends.last
        return size(last.status["counts"]["journal_bytes"]) if last else ""
    return str(trend)


def _backlog(sink: dict[str, Any]) -> str:
    posts = sink["backlog_posts"]
    if posts is None:
        return "backlog unknown"
    return f"{count(posts, 'post')} behind" + (f" (oldest: {duration(sink['backlog_age_seconds'])})" if posts else "")


def _waiting(status: dict[str, Any]) -> str:
    letters = sum(kept["letters"] for kept in status["dead_letters"] or ())
    return f"{count(letters, 'dead letter')} waiting" if letters else ""
