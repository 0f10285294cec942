"""The command line. Results go to stdout, progress and logs to stderr; exit 0 done, 1 failed, 2 usage or config."""

import asyncio
import base64
import json
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http.client import HTTPException
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Optional

import apsw
import typer
import uvloop

from btfeed import config as configuration
from btfeed import native
from btfeed.address import host_and_port
from btfeed.app import check as checking
from btfeed.app import serve as app
from btfeed.commands.terminal import fail
from btfeed.commands.traffic import traffic
from btfeed.config import Config
from btfeed.faults import ConfigError
from btfeed.journal.base import DeadLetter, JournalError
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.posts import files as postfile
from btfeed.posts.post import Malformed
from btfeed.records import describe as inspect
from btfeed.records.encoding import rfc3339
from btfeed.telemetry import logs

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Takes AppMon's Business Transactions feed and delivers it, every occurrence, without loss.",
)
letters = typer.Typer(no_args_is_help=True, help="What could not be delivered, and why.")
cli.add_typer(letters, name="dead-letters")
cli.add_typer(traffic)

ConfigFile = Annotated[
    Optional[Path], typer.Option("-c", "--config", help="Configuration file; without one, records go to files here.")
]


def _load(path: Path | None) -> Config:
    try:
        return configuration.load(path)
    except ConfigError as error:
        number = len(error.faults)
        what = path or "the default configuration"
        fail("\n".join([f"{what} has {number} fault{'s' if number > 1 else ''}:", *error.faults]), 2)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"btfeed {version('btfeed')} (mapping: {native.PATH})")
        raise typer.Exit


@cli.callback()
def _main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Before any command."""


@cli.command()
def serve(
    config: ConfigFile = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Receive posts and deliver them, until SIGTERM."""
    loaded = _load(config)
    if log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise typer.BadParameter(f"{log_level!r} is no log level", param_hint="--log-level")
    logs.configure(log_level.upper())
    try:
        uvloop.run(app.serve(loaded))
    except (JournalError, OSError) as error:  # ssl.SSLError is an OSError
        fail(f"can't start: {error}")


@cli.command()
def check(config: ConfigFile = None) -> None:
    """Check the configuration, and try each sink's connection. Nothing is received, delivered or changed."""
    loaded = _load(config)
    logs.configure()
    typer.echo(f"configuration: ok, {config or 'the default one'}")
    checks = asyncio.run(checking.check(loaded))
    for check in checks:
        typer.echo(f"{check.path}: failed, {check.failure}" if check.failure else f"{check.path}: ok, {check.what}")
    if any(check.failure for check in checks):
        raise typer.Exit(1)


@cli.command("inspect")
def inspect_file(
    file: Annotated[Path, typer.Argument(help="*.bin or *.btposts")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each post.")] = False,
) -> None:
    """Show posts as people read them, and which rules of the field table they break."""
    failed = False
    try:
        for number, body in enumerate(chain.from_iterable(map(postfile.read, postfile.find([file])))):
            try:
                described = inspect.describe(body)
            except Malformed as error:
                typer.echo(f"post {number}: {error}", err=True)
                failed = True
                continue
            if as_json:
                typer.echo(json.dumps(described, ensure_ascii=False))
            else:
                found = inspect.lines(described)
                typer.echo("\n".join([f"post {number}: {next(found)}", *found]))
    except postfile.PostFileError as error:
        fail(str(error))
    if failed:
        raise typer.Exit(1)


@cli.command()
def status(
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="As the admin listener gives it.")] = False,
) -> None:
    """Show how a running server is doing."""
    answer = _ask_for_status(_load(config))
    if as_json:
        typer.echo(answer)
    else:
        typer.echo("\n".join(_status_lines(json.loads(answer))))


def _ask_for_status(config: Config) -> bytes:
    host, port = host_and_port(config.admin.listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with directly.open(f"http://{host}:{port}/status", timeout=10) as response:
            answer: bytes = response.read()
        json.loads(answer)
    except OSError as error:
        fail(f"no answer from a server at {host}:{port} (admin.listen): {getattr(error, 'reason', error)}")
    except (HTTPException, ValueError):
        fail(f"what answers at {host}:{port} (admin.listen) is no btfeed")
    return answer


def _status_lines(status: dict[str, Any]) -> Iterator[str]:
    counts = status["counts"]
    ready = "ready" if status["ready"] else f"NOT READY: {status['refusing']}"
    yield f"btfeed {status['version']}, up {status['uptime_seconds']:.0f} s, {ready}"
    refused = counts["refused_posts"]
    reasons = ", ".join(f"{reason} {number}" for reason, number in refused.items())
    yield (
        f"taken {counts['posts']} posts, {counts['received_occurrences']} occurrences; "
        f"refused {sum(refused.values())}{f' ({reasons})' if reasons else ''}; "
        f"journal {counts['journal_bytes'] / 2**20:.1f} MiB, {counts['journal_posts']} posts"
    )
    for name, sink in status["sinks"].items():
        behind = "unknown" if sink["backlog_posts"] is None else f"{sink['backlog_posts']} posts"
        age = f" ({sink['backlog_age_seconds']} s)" if sink["backlog_posts"] else ""
        error = f", last error: {sink['last_error']}" if sink["last_error"] else ""
        yield (
            f"sink {name}: {sink['state']}, delivered {sink['delivered']}, behind {behind}{age}, "
            f"dead letters {sink['dead_letters']}{error}"
        )
    for violation in status["violations"]:
        yield "violation: {rule} {field} in {transaction!r}: {count}".format(**violation)


# dead-letters


@contextmanager
def _store(config: Config) -> Iterator[JournalDatabase]:
    directory = Path(config.journal.directory)
    if not (directory / FILE).exists():
        fail(f"no journal in {directory}")
    try:
        store = JournalDatabase.open(directory)
        try:
            yield store
        finally:
            store.close()
    except apsw.Error as error:
        fail(f"can't use the journal in {directory}: {error}")


SinkName = Annotated[
    Optional[str], typer.Option("--sink", help='Only of this sink; "" for those that no sink was asked for.')
]


def _selected(store: JournalDatabase, sink: str | None, ids: Sequence[int] = ()) -> Iterator[DeadLetter]:
    conditions = [f"id IN ({','.join('?' * len(ids))})"] if ids else []
    conditions += [] if sink is None else ["sink = ?"]
    return store.dead_letters(" AND ".join(conditions) or "1", *ids, *([] if sink is None else [sink]))


@letters.command("list")
def list_letters(
    config: ConfigFile = None,
    sink: SinkName = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, without bodies.")] = False,
) -> None:
    """One line for each: id, when, sink, what, why."""
    with _store(_load(config)) as store:
        for letter in _selected(store, sink):
            if as_json:
                typer.echo(json.dumps(_described(letter)))
            else:
                what = letter.event_id or f"post of {len(letter.body)} bytes"
                tries = f" (tried {letter.tries} times)" if letter.tries > 1 else ""
                reason = " ".join(letter.reason.split())  # a far end's answer may have lines
                typer.echo(f"{letter.id}  {_when(letter)}  {letter.sink or '-'}  {what}  {reason}{tries}")


@letters.command()
def export(
    config: ConfigFile = None,
    sink: SinkName = None,
    posts: Annotated[Optional[Path], typer.Option(help="Write bodies of refused posts here, as *.btposts.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what was exported.")] = False,
) -> None:
    """All of them as JSON, one a line: records as they are, refused posts in base64."""
    exported = []
    with _store(_load(config)) as store, _opened(posts) as file:
        for letter in _selected(store, sink):
            if letter.kind == "post" and file:
                postfile.write_delimited(file, letter.body)
            typer.echo(json.dumps(_described(letter) | _content(letter), ensure_ascii=False))
            exported.append(letter.id)
        if file:
            file.flush()
        sys.stdout.flush()
        if delete:
            store.delete_dead_letters(exported)


def _opened(path: Path | None) -> AbstractContextManager[BinaryIO | None]:
    try:
        return path.open("wb") if path else nullcontext()
    except OSError as error:
        fail(f"{path}: {error.strerror}")


@letters.command()
def retry(
    ids: Annotated[Optional[list[int]], typer.Argument(help="Which; all by default.")] = None,
    config: ConfigFile = None,
    sink: SinkName = None,
) -> None:
    """Try them again: the running server does within a second, or the next one to start."""
    loaded = _load(config)
    with _store(loaded) as store:
        found = list(_selected(store, sink, ids or ()))
        missing = set(ids or ()).difference(letter.id for letter in found)
        if missing:
            fail(f"no dead letter {', '.join(map(str, sorted(missing)))}")
        marked = store.retry(found, list(loaded.sinks))
    typer.echo(f"{marked} marked to be tried again")
    if marked < len(found):
        fail(f"{len(found) - marked} can't be: their sinks are not configured, or they have no valid timestamp")


def _when(letter: DeadLetter) -> str:
    return rfc3339(letter.time)


def _described(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id, "time": _when(letter), "sink": letter.sink, "kind": letter.kind, "reason": letter.reason,
        "tries": letter.tries, "event_id": letter.event_id,
    }  # fmt: skip


def _content(letter: DeadLetter) -> dict[str, Any]:
    if letter.kind == "record":
        return {"record": json.loads(letter.body)}
    return {"body": base64.b64encode(letter.body).decode()}


if __name__ == "__main__":
    cli()
