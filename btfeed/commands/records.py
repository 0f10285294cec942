"""The commands `btfeed records` and `btfeed tap`: what sinks would get of some posts, and what they get now."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional
from urllib.parse import urlencode

import typer

from btfeed.commands.admin_client import AdminError
from btfeed.commands.completion import sink_names
from btfeed.commands.config_file import ConfigFile, load
from btfeed.commands.status import CaOption, TokenOption, UrlOption, admin_client
from btfeed.commands.terminal import fail
from btfeed.journal.base import Damaged, Entry, JournalError
from btfeed.posts import files as postfile
from btfeed.posts.post import Post, digest
from btfeed.telemetry import logs
from btfeed.telemetry.printable import printable
from btfeed.telemetry.wording import count

if TYPE_CHECKING:
    from btfeed.app.dry_run import NotShown
    from btfeed.config import Config

NEEDS = ("journal", "validation", "record", "sinks")
"""The tables of the configuration that `records` reads."""
LOST = b'{"lost":'
"""How a line of /tap begins that tells how many records are missing."""
MAX_REASONS = 20
"""Reasons that are told one by one."""

SinkNames = Annotated[
    Optional[list[str]],
    typer.Option("--sink", metavar="NAME", autocompletion=sink_names, help="Only for this sink; may be repeated."),
]
Limit = Annotated[Optional[int], typer.Option(min=1, metavar="N", help="End after this many lines.")]


def records(
    sources: Annotated[
        Optional[list[Path]],
        typer.Argument(
            metavar="SOURCE", help="Files with posts (*.bin, *.btposts, also with .gz), folders of them, or - for stdin."
        ),
    ] = None,
    config: ConfigFile = None,
    journal: Annotated[
        bool, typer.Option("--journal", help="The posts in the configured journal; a server may be running.")
    ] = False,
    sink: SinkNames = None,
    limit: Limit = None,
) -> None:
    """Print what each configured sink would get, as one JSON object per line. Connects to nothing.

    Shows the effect of templates, privacy and filters: the sink, what it adds (topic, index, key, headers), and the record.
    """
    if not sources and not journal:
        raise typer.BadParameter("name files with posts, or give --journal", param_hint="SOURCE")
    if sources and journal:
        raise typer.BadParameter("name files or give --journal, not both", param_hint="--journal")
    logs.configure()
    read = _Files(sources or ())
    loaded = load(config, NEEDS, tolerant=True)
    names = _sinks(loaded, sink or [])
    from btfeed.app.dry_run import DryRun  # slow to import, and not needed by every command

    async def run() -> "NotShown":
        shown = DryRun(loaded, names)
        try:
            for line in islice(shown.lines(_journal(loaded) if journal else read.entries()), limit):
                _write(line)
            sys.stdout.buffer.flush()
        finally:
            await shown.close()
        return shown.not_shown

    try:
        not_shown = asyncio.run(run())
    except (postfile.PostFileError, JournalError) as error:
        fail(str(error))
    for told in _told(not_shown, _name_in_journal if journal else read.name_of):
        typer.echo(printable(told), err=True)
    if not_shown.posts:
        raise typer.Exit(1)


def tap(
    config: ConfigFile = None,
    url: UrlOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    sink: SinkNames = None,
    transaction: Annotated[
        Optional[list[str]],
        typer.Option(
            "--transaction", metavar="NAME", help="Only of this business transaction, as records have it; may be repeated."
        ),
    ] = None,
    limit: Limit = None,
) -> None:
    """Print what the sinks of a running server get, as one JSON object per line, until Ctrl-C."""
    wanted = [("sink", name) for name in sink or []] + [("transaction", name) for name in transaction or []]
    query = urlencode([*wanted, *([("limit", limit)] if limit else [])])
    lines = admin_client(config, url, token, ca).lines(f"/tap?{query}")
    printed = 0
    try:
        for line in lines:
            if line.startswith(LOST):
                lost = count(int(line[len(LOST) : -2]), "record")
                typer.echo(f"{lost} not shown: more came than this command could read", err=True)
                continue
            _write(line)
            sys.stdout.buffer.flush()
            printed += 1
    except AdminError as error:
        fail(str(error))
    except KeyboardInterrupt:
        return
    if printed != limit:
        typer.echo("the server ended the tap", err=True)


def _sinks(config: "Config", wanted: list[str]) -> list[str]:
    """The names of the sinks to show. Ends the command if one can't be shown."""
    if not config.is_complete("record"):
        fail("\n".join(f"{path}: {why}" for path, why in config.unresolved.items() if path.startswith("record.")), 2)
    names = list(dict.fromkeys(wanted)) or list(config.sinks)
    for name in names:
        if name not in config.sinks:
            why = [f"{path}: {why}" for path, why in config.unresolved.items() if path.startswith(f"sinks.{name}.")]
            known = ", ".join(config.sinks) or "none"
            fail("\n".join(why) or f"no sink {name} is configured: the sinks are {known}", 2)
    if not names:
        fail("no sinks are configured: add a table [sinks.NAME]")
    return names


class _Files:
    """The posts in files, numbered from 1 over all of them."""

    def __init__(self, sources: Iterable[Path]) -> None:
        self._sources = sources
        self._starts: list[tuple[int, Path]] = []

    def entries(self) -> Iterator[Entry]:
        """Raises PostFileError."""
        number = 0
        for path in postfile.find(self._sources):
            self._starts.append((number, path))
            for body in postfile.read(path):
                number += 1
                yield Entry(number, Post(body, 0, ""), digest(body))

    def name_of(self, number: int) -> str:
        """A post that was read, by the number that it has in its file."""
        before, path = next(start for start in reversed(self._starts) if start[0] < number)
        return f"post {number - before} of {path}"


def _name_in_journal(number: int) -> str:
    return f"the post at position {number}"


def _journal(config: "Config") -> Iterator[Entry | Damaged]:
    from btfeed.journal import create as journals  # slow to import, and not needed for files

    return journals.archive(config.journal).entries()


def _told(not_shown: "NotShown", name_of: Callable[[int], str]) -> Iterator[str]:
    """What was not shown, and why. name_of: what to call the post with a number."""
    for reason, number in not_shown.posts.items():
        named = [name_of(each) for each in not_shown.which[reason]]
        more = [f"{number - len(named)} more"] if number > len(named) else []
        yield f"{count(number, 'post')} left out: {reason} ({', '.join([*named, *more])})"
    for reason, number in not_shown.refused.most_common(MAX_REASONS):
        yield f"{count(number, 'record')} would become dead letters: {reason}"
    others = not_shown.refused.total() - sum(number for _, number in not_shown.refused.most_common(MAX_REASONS))
    if others:
        yield f"{count(others, 'record')} would become dead letters for other reasons"
    for sink, number in not_shown.filtered.items():
        if number:
            yield f"{count(number, 'record')} not for sink {sink}: its filter excludes them"
    for sink, number in not_shown.expired.items():
        if number:
            yield f"{count(number, 'record')} for sink {sink} are older than its max_age, and would become dead letters"


def _write(line: bytes) -> None:
    """To stdout, without what could control a terminal."""
    sys.stdout.buffer.write(printable(line.decode()).encode())
