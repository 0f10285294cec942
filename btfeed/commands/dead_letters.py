"""The command `btfeed dead-letters`: lists, exports and retries what could not be delivered."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Optional

import typer

from btfeed.admin.letter_json import described, exported
from btfeed.commands.cli import App
from btfeed.commands.completion import sink_names
from btfeed.commands.config_file import ConfigFile, load
from btfeed.commands.outputs import check_name, files_in, open_outputs
from btfeed.commands.terminal import fail
from btfeed.faults import ConfigError
from btfeed.journal.base import DeadLetter, DeadLetters, JournalError, Selection
from btfeed.posts import files as postfile
from btfeed.records.encoding import rfc3339
from btfeed.telemetry.printable import printable
from btfeed.telemetry.wording import count

if TYPE_CHECKING:
    from btfeed.config import Config

dead_letters = App(no_args_is_help=True, help="List, export and retry what could not be delivered.")

SinkName = Annotated[
    Optional[str],
    typer.Option(
        "--sink", metavar="NAME", autocompletion=sink_names,
        help='Only those of this sink; "" for those that belong to no sink.',
    ),
]  # fmt: skip
NEEDS = ("journal", "filters")
"""Tables of the configuration."""
EXPORTED_AT_A_TIME = 1_000
"""Dead letters that `export --delete` writes before it deletes them."""


@contextmanager
def _opened(config: "Config", sink: str | None, max_occurrences: int | None = None) -> Iterator[DeadLetters]:
    """Ends the command if nothing is known of `sink`: one that is gone may have left dead letters. max_occurrences: what a
    post may have that is retried."""
    from btfeed.journal import create as journals  # slow to import, and not needed by every command

    try:
        with journals.dead_letters(config.journal, max_occurrences or journals.MAX_OCCURRENCES) as opened:
            if sink and sink not in config.filters and not opened.count(Selection(sink)):
                known = ", ".join(config.filters) or "none"
                fail(f"no sink {sink!r} is configured, and no dead letter is its: the sinks are {known}", 2)
            yield opened
    except JournalError as error:
        fail(str(error))


@dead_letters.command("list")
def list_dead_letters(
    config: ConfigFile = None,
    sink: SinkName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line, without bodies.")] = False,
) -> None:
    """Print one line each: id, time, sink, event or post, reason."""
    with _opened(load(config, NEEDS), sink) as kept:
        for dead_letter in kept.select(Selection(sink)):
            _print(json.dumps(described(dead_letter), ensure_ascii=False) if as_json else _line(dead_letter))


@dead_letters.command()
def export(
    config: ConfigFile = None,
    sink: SinkName = None,
    posts: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="Write the bodies of rejected posts to this *.btposts or *.btposts.gz file."),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what was exported.")] = False,
) -> None:
    """Print one JSON object per line: records as they are, rejected posts in base64."""
    from btfeed.journal import create as journals

    loaded = load(config, NEEDS)
    damaged = 0
    inputs = [path for each in journals.directories(loaded.journal) for path in files_in(each)]
    inputs += [config] if config else []
    with _opened(loaded, sink) as kept, _writing(posts, inputs) as writer:
        selected = kept.select(Selection(sink))
        while some := [(each.id, _export(each, writer)) for each in islice(selected, EXPORTED_AT_A_TIME)]:
            _make_durable(sys.stdout)
            if writer:
                writer.flush()
                _make_durable(writer.raw)
            if delete:
                kept.delete([number for number, _ in some])
            damaged += sum(not whole for _, whole in some)
    if damaged:
        fail(f"{count(damaged, 'dead letter')} damaged in the journal, exported without the record")


@dead_letters.command()
def retry(
    ids: Annotated[Optional[list[int]], typer.Argument(metavar="ID", help="Ids to retry; all by default.")] = None,
    config: ConfigFile = None,
    sink: SinkName = None,
) -> None:
    """Mark them for a retry. The running server tries them within two seconds; otherwise the next one to start does."""
    loaded = load(config, NEEDS)
    selection = Selection(sink, frozenset(ids or ()))
    with _opened(loaded, sink, _max_occurrences(config)) as kept:
        missing = set(selection.ids) - {each.id for each in kept.select(selection)} if ids else ()
        if missing:
            fail(f"no dead letter {', '.join(map(str, sorted(missing)))}")
        found = kept.count(selection)
        marked = kept.retry(selection, {name: each.accepts for name, each in loaded.filters.items()})
    typer.echo(f"{marked} marked for retry")
    if marked < found:
        why = "no configured sink wants them, they are damaged, or they have no valid timestamp"
        fail(f"{found - marked} can't be retried: {why}")


def _max_occurrences(path: Path | None) -> int | None:
    """What the receiver allows; None if its table can't be read here, such as for want of a secret in the environment."""
    from btfeed import config as configuration  # slow to import, and not needed by every command

    try:
        found = configuration.load(path, needs=["receiver"], tolerant=True)
    except ConfigError:
        return None
    return found.receiver.max_occurrences if found.was_read("receiver") else None


@contextmanager
def _writing(path: Path | None, inputs: Iterable[Path]) -> Iterator[postfile.Writer | None]:
    """A new post file at `path`, if given."""
    try:
        if path == postfile.STANDARD:
            raise typer.BadParameter("standard output is for the JSON: name a file", param_hint="--posts")
        if path:
            check_name(path, "--posts")
        file = open_outputs({"--posts": path}, inputs).get("--posts")
        with closing(postfile.Writer(path, file)) if path else nullcontext() as writer:
            yield writer
    except postfile.PostFileError as error:
        fail(str(error))


def _export(dead_letter: DeadLetter, writer: postfile.Writer | None) -> bool:
    """Print it, and write a post's body with `writer`. False if it is damaged: what is left of it is printed."""
    if dead_letter.kind == "post" and writer:
        writer.write(dead_letter.body)
    content, whole = exported(dead_letter)
    if not whole:
        typer.echo(f"dead letter {dead_letter.id} is damaged", err=True)
    _print(json.dumps(content, ensure_ascii=False))
    return whole


def _print(text: str) -> None:
    """Print a line in UTF-8. What UTF-8 can't encode is escaped as in JSON."""
    sys.stdout.buffer.write(printable(text).encode("utf-8", "backslashreplace") + b"\n")


def _make_durable(file: IO[Any]) -> None:
    """So that what was exported may be deleted."""
    file.flush()
    with suppress(OSError):  # a pipe or a terminal
        os.fsync(file.fileno())


def _line(dead_letter: DeadLetter) -> str:
    what = dead_letter.event_id or f"post of {len(dead_letter.body)} bytes"
    tries = f" (tried {dead_letter.tries} times)" if dead_letter.tries > 1 else ""
    reason = " ".join(dead_letter.reason.split())  # a server's answer may have several lines
    waits = f" (waits for {dead_letter.destination})" if dead_letter.destination else ""
    return f"{dead_letter.id}  {rfc3339(dead_letter.time)}  {dead_letter.sink or '-'}  {what}  {reason}{tries}{waits}"
