"""The command `btfeed dead-letters`: lists, exports and retries what could not be delivered."""

import base64
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from btfeed.commands.config_file import ConfigFile, load
from btfeed.commands.outputs import open_outputs
from btfeed.commands.terminal import fail
from btfeed.journal.base import DeadLetter, DeadLetters, JournalError, Selection
from btfeed.posts import files as postfile
from btfeed.records.encoding import rfc3339

if TYPE_CHECKING:
    from btfeed.config import Config

dead_letters = typer.Typer(no_args_is_help=True, help="List, export and retry what could not be delivered.")

SinkName = Annotated[
    Optional[str], typer.Option("--sink", help='Only those of this sink; "" for those that belong to no sink.')
]
EXPORTED_AT_A_TIME = 1_000
"""Dead letters that `export --delete` writes before it deletes them."""


@contextmanager
def _opened(config: "Config") -> Iterator[DeadLetters]:
    from btfeed.journal import create as journals  # slow to import, and not needed by every command

    try:
        with journals.dead_letters(config.journal) as opened:
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
    with _opened(load(config)) as kept:
        for dead_letter in kept.select(Selection(sink)):
            typer.echo(json.dumps(_described(dead_letter)) if as_json else _line(dead_letter))


@dead_letters.command()
def export(
    config: ConfigFile = None,
    sink: SinkName = None,
    posts: Annotated[
        Optional[Path], typer.Option(help="Write the bodies of rejected posts to this *.btposts or *.btposts.gz file.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what was exported.")] = False,
) -> None:
    """Print one JSON object per line: records as they are, rejected posts in base64."""
    loaded = load(config)
    with _opened(loaded) as kept, _writing(posts, [*_files(loaded), *([config] if config else [])]) as writer:
        selected = kept.select(Selection(sink))
        while exported := [_export(each, writer) for each in islice(selected, EXPORTED_AT_A_TIME)]:
            if writer:
                writer.flush()
            sys.stdout.flush()
            if delete:
                kept.delete(exported)


@dead_letters.command()
def retry(
    ids: Annotated[Optional[list[int]], typer.Argument(help="Ids to retry; all by default.")] = None,
    config: ConfigFile = None,
    sink: SinkName = None,
) -> None:
    """Mark them for a retry. The running server tries them within two seconds; otherwise the next one to start does."""
    loaded = load(config)
    selection = Selection(sink, frozenset(ids or ()))
    with _opened(loaded) as kept:
        missing = set(selection.ids) - {each.id for each in kept.select(selection)} if ids else ()
        if missing:
            fail(f"no dead letter {', '.join(map(str, sorted(missing)))}")
        found = kept.count(selection)
        marked = kept.retry(selection, list(loaded.sinks))
    typer.echo(f"{marked} marked for retry")
    if marked < found:
        fail(f"{found - marked} can't be retried: their sinks are not configured, or they have no valid timestamp")


@contextmanager
def _writing(path: Path | None, inputs: Iterable[Path]) -> Iterator[postfile.Writer | None]:
    """A new post file at `path`, if given."""
    try:
        if path == postfile.STANDARD:
            raise typer.BadParameter("standard output is for the JSON: name a file", param_hint="--posts")
        if path:
            postfile.check_writable(path)
        file = open_outputs({"--posts": path}, inputs).get("--posts")
        with closing(postfile.Writer(path, file)) if path else nullcontext() as writer:
            yield writer
    except postfile.PostFileError as error:
        fail(str(error))


def _files(config: "Config") -> Iterator[Path]:
    """The files of the journal."""
    yield from (path for path in Path(config.journal.directory).rglob("*") if path.is_file())


def _export(dead_letter: DeadLetter, writer: postfile.Writer | None) -> int:
    """Print it, and write a post's body with `writer`. Returns its id."""
    if dead_letter.kind == "post" and writer:
        writer.write(dead_letter.body)
    typer.echo(json.dumps(_described(dead_letter) | _content(dead_letter), ensure_ascii=False))
    return dead_letter.id


def _line(dead_letter: DeadLetter) -> str:
    what = dead_letter.event_id or f"post of {len(dead_letter.body)} bytes"
    tries = f" (tried {dead_letter.tries} times)" if dead_letter.tries > 1 else ""
    reason = " ".join(dead_letter.reason.split())  # a server's answer may have several lines
    return f"{dead_letter.id}  {rfc3339(dead_letter.time)}  {dead_letter.sink or '-'}  {what}  {reason}{tries}"


def _described(dead_letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": dead_letter.id, "time": rfc3339(dead_letter.time), "sink": dead_letter.sink, "kind": dead_letter.kind,
        "reason": dead_letter.reason, "tries": dead_letter.tries, "event_id": dead_letter.event_id,
    }  # fmt: skip


def _content(dead_letter: DeadLetter) -> dict[str, Any]:
    if dead_letter.kind == "record":
        return {"record": json.loads(dead_letter.body)}
    return {"body": base64.b64encode(dead_letter.body).decode()}
