"""What the commands have in common: how they fail, what they ask, how far they are."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from btfeed.traffic.sending import Sender, Summary

EVERY = 0.2
"""Seconds from one look at the figures to the next."""


def fail(message: str, code: int = 1) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def check_url(url: str, option: str = "--url") -> None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise typer.BadParameter(f"{url!r} is no http or https url", param_hint=option)


@contextmanager
def progress(sender: Sender, done: Callable[[], float], total: float | None) -> Iterator[Callable[[], object]]:
    """A bar with rate, latency and remaining time on a terminal, nothing elsewhere. Call what is given now and then."""
    with Progress(
        TextColumn("posting"), BarColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn(),
        console=Console(stderr=True), disable=not sys.stderr.isatty(),
    ) as shown:  # fmt: skip
        task = shown.add_task("posting", total=total, figures="")
        looked = 0.0

        def look(final: bool = False) -> None:
            nonlocal looked
            if not shown.disable and (final or time.monotonic() - looked > EVERY):
                looked = time.monotonic()
                shown.update(task, completed=done(), figures=_figures(sender.summary))

        yield look
        look(final=True)


def _figures(summary: Summary) -> str:
    seconds = max(summary.seconds, 1e-9)
    figures = f"{summary.posts} posts, {summary.posts / seconds:.0f}/s"
    if summary.latency(0.5) is not None:
        figures += f", p50 {summary.latency(0.5):.1f} ms, p99 {summary.latency(0.99):.1f} ms"
    failed = summary.refusals + summary.unknowns
    return figures + (f", {failed} failed" if failed else "")


def show(summary: Summary, as_json: bool, err: bool = False) -> None:
    """The result, on stdout, unless that is where the posts went."""
    text = json.dumps(summary.as_json(), ensure_ascii=False) if as_json else "\n".join(summary.lines())
    typer.echo(text, err=err)
