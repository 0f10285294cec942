"""What commands print: errors, progress and summaries."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from btfeed.commands.urls import without_credentials
from btfeed.telemetry.printable import printable
from btfeed.telemetry.wording import count
from btfeed.traffic.sending import Sender, SendSummary
from sinks.shared.clock import SYSTEM_CLOCK, Clock

REFRESH_INTERVAL = 0.2
"""Seconds between two updates of the progress bar's figures."""


def fail(message: str, code: int = 1) -> NoReturn:
    """Print `message` to stderr, without credentials of URLs, and exit."""
    typer.echo(printable(without_credentials(message)), err=True)
    raise typer.Exit(code)


@contextmanager
def progress(
    sender: Sender, done: Callable[[], float], total: float | None, clock: Clock = SYSTEM_CLOCK
) -> Iterator[Callable[[], None]]:
    """Show a progress bar with figures if stderr is a terminal. Yields a function to be called after each post.

    done, total  how much is done, and of how much; None if unknown
    """
    with Progress(
        TextColumn("sending"), BarColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn(),
        console=Console(stderr=True), disable=not sys.stderr.isatty(),
    ) as bar:  # fmt: skip
        task = bar.add_task("sending", total=total, figures="")
        updated = 0.0

        def update(final: bool = False) -> None:
            nonlocal updated
            if not bar.disable and (final or clock.monotonic() - updated > REFRESH_INTERVAL):
                updated = clock.monotonic()
                bar.update(task, completed=done(), figures=_figures(sender.summary))

        yield update
        update(final=True)


def _figures(summary: SendSummary) -> str:
    parts = [count(summary.posts, "post"), f"{summary.posts_per_second:.0f}/s", *_latency(summary)]
    for outcome, posts in (("refused", summary.refused.total()), ("unknown", summary.unknown.total())):
        parts += [f"{posts} {outcome}"] if posts else []
    return ", ".join(parts)


def show(summary: SendSummary, verb: str, json_output: bool, err: bool = False) -> None:
    """Print the result to stdout, or to stderr if stdout has the posts. verb: what happened to the posts."""
    text = json.dumps(summary.as_dict(), ensure_ascii=False) if json_output else "\n".join(lines(summary, verb))
    typer.echo(printable(text), err=err)


def lines(summary: SendSummary, verb: str = "accepted") -> Iterator[str]:
    """The result in words."""
    total = summary.posts + summary.refused.total() + summary.unknown.total()
    posts = count(total, "post") if summary.posts == total else f"{summary.posts} of {total} posts"
    yield (
        f"{posts} {verb} ({count(summary.occurrences, 'occurrence')}) in {summary.seconds:.2f} s: "
        f"{summary.posts_per_second:.0f} posts/s, {summary.occurrences_per_second:.0f} occurrences/s"
    )
    if latency := _latency(summary):
        yield f"latency: {', '.join(latency)}"
    for reason, number in summary.refused.items():
        yield f"{count(number, 'post')} refused: {reason}"
    for reason, number in summary.unknown.items():
        yield f"{count(number, 'post')} with unknown outcome: {reason}"
    if summary.retries:
        yield f"{summary.retries} {'retry' if summary.retries == 1 else 'retries'}"


def _latency(summary: SendSummary) -> list[str]:
    if summary.latency_ms(0.5) is None:
        return []
    return [f"p50 {summary.latency_ms(0.5):.1f} ms", f"p99 {summary.latency_ms(0.99):.1f} ms"]
