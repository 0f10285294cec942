"""The command line: serve, check, inspect, status, and the commands of the other modules."""

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
from btfeed.app.check import check as run_checks
from btfeed.app.serve import serve as run_server
from btfeed.commands.terminal import fail
from btfeed.commands.traffic import traffic
from btfeed.config import Config
from btfeed.faults import ConfigError
from btfeed.journal.base import DeadLetter, JournalError
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.posts import files as postfile
from btfeed.posts.post import Malformed
from btfeed.records import describe
from btfeed.records.encoding import rfc3339
from btfeed.telemetry import logs

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Receive AppMon's Business Transactions feed and deliver it to Kafka, Elasticsearch, Dynatrace and files.",
)
letters = typer.Typer(no_args_is_help=True, help="What could not be delivered, and why.")
cli.add_typer(letters, name="dead-letters")
cli.add_typer(traffic)

ConfigFile = Annotated[
    Optional[Path],
    typer.Option("-c", "--config", help="Configuration file (TOML). By default, records go to files in ./btfeed-data."),
]


def _load(path: Path | None) -> Config:
    try:
        return configuration.load(path)
    except ConfigError as error:
        what = path or "the default configuration"
        fail("\n".join([f"{_counted(len(error.faults), 'error')} in {what}:", *error.faults]), 2)


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
    """Options of `btfeed` itself."""


@cli.command()
def serve(
    config: ConfigFile = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
) -> None:
    """Receive posts and deliver them, until SIGTERM or Ctrl-C."""
    loaded = _load(config)
    if log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise typer.BadParameter(
            f"unknown log level {log_level!r}: use DEBUG, INFO, WARNING or ERROR", param_hint="--log-level"
        )
    logs.configure(log_level.upper())
    try:
        uvloop.run(run_server(loaded))
    except (JournalError, OSError) as error:  # ssl.SSLError is an OSError
        fail(f"can't start: {error}")


@cli.command()
def check(config: ConfigFile = None) -> None:
    """Check the configuration and the connection to each sink, without changing anything."""
    loaded = _load(config)
    logs.configure()
    typer.echo(f"configuration: ok, {config or 'the default'}")
    results = asyncio.run(run_checks(loaded))
    for result in results:
        typer.echo(f"{result.path}: failed, {result.failure}" if result.failure else f"{result.path}: ok, {result.what}")
    if any(result.failure for result in results):
        raise typer.Exit(1)


@cli.command("inspect")
def inspect(
    file: Annotated[Path, typer.Argument(help="A .bin or .btposts file, or a folder of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per post.")] = False,
) -> None:
    """Show what is in posts, and which rules of the field table they break."""
    failed = False
    try:
        for number, body in enumerate(chain.from_iterable(map(postfile.read, postfile.find([file])))):
            try:
                described = describe.describe(body)
            except Malformed as error:
                typer.echo(f"post {number}: {error}", err=True)
                failed = True
                continue
            if as_json:
                typer.echo(json.dumps(described, ensure_ascii=False))
            else:
                lines = describe.lines(described)
                typer.echo("\n".join([f"post {number}: {next(lines)}", *lines]))
    except postfile.PostFileError as error:
        fail(str(error))
    if failed:
        raise typer.Exit(1)


@cli.command()
def status(
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON of the admin listener's /status.")] = False,
) -> None:
    """Show the state of a running server: posts, journal, sinks and violations."""
    text = _fetch_status(_load(config))
    typer.echo(text if as_json else "\n".join(_status_lines(json.loads(text))))


def _fetch_status(config: Config) -> bytes:
    host, port = host_and_port(config.admin.listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with without_proxy.open(f"http://{host}:{port}/status", timeout=10) as response:
            text: bytes = response.read()
        json.loads(text)
    except OSError as error:
        reason = getattr(error, "reason", error)
        fail(f"no response from btfeed at {host}:{port} (admin.listen): {reason}. Is the server running?")
    except (HTTPException, ValueError):
        fail(f"the server at {host}:{port} is not btfeed: check admin.listen in the configuration")
    return text


def _status_lines(status: dict[str, Any]) -> Iterator[str]:
    counts = status["counts"]
    ready = "ready" if status["ready"] else f"NOT READY: {status['refusing']}"
    yield f"btfeed {status['version']}, up {status['uptime_seconds']:.0f} s, {ready}"
    refused = counts["refused_posts"]
    reasons = ", ".join(f"{reason} {number}" for reason, number in refused.items())
    yield (
        f"received: {_counted(counts['posts'], 'post')} with {_counted(counts['received_occurrences'], 'occurrence')}, "
        f"{_counted(sum(refused.values()), 'request')} refused{f' ({reasons})' if reasons else ''}"
    )
    yield f"journal: {_counted(counts['journal_posts'], 'post')}, {counts['journal_bytes'] / 2**20:.1f} MiB"
    for name, sink in status["sinks"].items():
        yield f"sink {name}: {_sink_line(sink)}"
    for violation in status["violations"]:
        yield "{}: {rule} {field} in {transaction!r}".format(_counted(violation["count"], "violation"), **violation)


def _sink_line(sink: dict[str, Any]) -> str:
    posts = sink["backlog_posts"]
    backlog = "backlog unknown" if posts is None else f"{_counted(posts, 'post')} behind"
    if posts:
        backlog += f" (oldest: {sink['backlog_age_seconds']:.0f} s)"
    parts = [sink["state"], f"{_counted(sink['delivered'], 'record')} delivered", backlog]
    parts.append(_counted(sink["dead_letters"], "dead letter"))
    if sink["last_error"]:
        parts.append(f"last error: {sink['last_error']}")
    return ", ".join(parts)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
