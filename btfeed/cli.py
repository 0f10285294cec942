"""The command line. Results go to stdout, progress and logs to stderr; exit 0 done, 1 failed, 2 usage or config."""

import asyncio
import base64
import json
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import aiohttp
import apsw
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from btfeed import app, inspect, logs, postfile
from btfeed import config as configuration
from btfeed.address import host_and_port
from btfeed.config import Config, ConfigError
from btfeed.journal.base import DeadLetter, JournalError
from btfeed.journal.store import FILE, Store
from btfeed.mapping import rfc3339
from btfeed.post import Malformed
from btfeed.replay import replay as replay_posts

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Takes AppMon's Business Transactions feed and delivers it, every occurrence, without loss.",
)
letters = typer.Typer(no_args_is_help=True, help="What could not be delivered, and why.")
cli.add_typer(letters, name="dead-letters")

ConfigFile = Annotated[
    Optional[Path], typer.Option("-c", "--config", help="Configuration file; without one, records go to files here.")
]


def _fail(message: str, code: int = 1) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def _load(path: Path | None) -> Config:
    try:
        return configuration.load(path)
    except ConfigError as error:
        number = len(error.faults)
        _fail("\n".join([f"the configuration has {number} fault{'s' if number > 1 else ''}:", *error.faults]), 2)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"btfeed {version('btfeed')} (mapping: python)")
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
        _fail(f"can't start: {error}")


@cli.command()
def check(config: ConfigFile = None) -> None:
    """Check the configuration, and try each sink's connection."""
    loaded = _load(config)
    typer.echo("configuration: ok")
    failed = False
    for name, result in asyncio.run(app.check(loaded)).items():
        typer.echo(f"{name}: {result or 'ok'}")
        failed = failed or result is not None
    if failed:
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
        _fail(str(error))
    if failed:
        raise typer.Exit(1)


@cli.command()
def status(
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="As the admin listener gives it.")] = False,
) -> None:
    """Show how a running server is doing."""
    host, port = host_and_port(_load(config).admin.listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/status", timeout=10) as response:
            answer = response.read()
    except OSError as error:
        _fail(f"no answer from a server at {host}:{port}: {error}")
    if as_json:
        typer.echo(answer)
        return
    found = json.loads(answer)
    counts = found["counts"]
    typer.echo(
        f"btfeed {found['version']}, up {found['uptime_seconds']:.0f} s, "
        + ("ready" if found["ready"] else f"NOT READY: {found['refusing']}")
    )
    refused = sum(counts["refused_posts"].values())
    typer.echo(
        f"taken {counts['posts']} posts, {counts['received_occurrences']} occurrences; refused {refused}; "
        f"journal {counts['journal_bytes'] / 2**20:.1f} MiB, {counts['journal_posts']} posts"
    )
    for name, sink in found["sinks"].items():
        typer.echo(
            f"sink {name}: {sink['state']}, delivered {sink['delivered']}, behind {sink['backlog_posts']} posts "
            f"({sink['backlog_age_seconds']} s), dead letters {sink['dead_letters']}"
            + (f", last error: {sink['last_error']}" if sink["last_error"] else "")
        )
    for violation in found["violations"]:
        typer.echo("violation: {rule} {field} in {transaction!r}: {count}".format(**violation))


@cli.command()
def replay(
    sources: Annotated[list[str], typer.Argument(help="*.bin, *.btposts, folders of them; a url may stand last.")],
    url: Annotated[str, typer.Option(help="Where to post to.")] = "http://127.0.0.1:4321/",
    rate: Annotated[
        Optional[float], typer.Option(min=0.001, help="Posts a second; by default as fast as answered.")
    ] = None,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="Kept-alive connections.")] = 1,
    user: Annotated[Optional[str], typer.Option(help="Basic auth: name:password.")] = None,
) -> None:
    """Post recorded posts to a url, as AppMon does."""
    if len(sources) > 1 and sources[-1].startswith(("http://", "https://")):
        url = sources.pop()
    name, colon, password = (user or ":").partition(":")
    if not colon:
        raise typer.BadParameter("write it as name:password", param_hint="--user")
    try:
        files = postfile.find(map(Path, sources))
        total = sum(path.stat().st_size for path in files)
        bodies = chain.from_iterable(map(postfile.read, files))
        with _progress(total) as advance:
            summary = uvloop.run(
                replay_posts(
                    bodies, url, rate=rate, connections=connections,
                    basic_auth=(name, password) if user else None, progress=advance,
                )
            )  # fmt: skip
    except* (postfile.PostFileError, OSError, aiohttp.InvalidURL) as errors:
        _fail("\n".join(str(error) for error in errors.exceptions))
    per_second = f"{summary.posts / summary.seconds:.0f} posts/s, {summary.occurrences / summary.seconds:.0f} occurrences/s"
    typer.echo(
        f"{summary.posts} posts, {summary.occurrences} occurrences, {summary.refusals} refused "
        f"in {summary.seconds:.2f} s: {per_second}"
    )
    for why, number in summary.refused.items():
        typer.echo(f"refused {number}: {why}")
    if summary.refused:
        raise typer.Exit(1)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], object]]:
    """A bar of bytes on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("posting"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("posting", total=total)
        yield lambda size: progress.advance(task, size)


# dead-letters


@contextmanager
def _store(config: Config) -> Iterator[Store]:
    directory = Path(config.journal.directory)
    if not (directory / FILE).exists():
        _fail(f"no journal in {directory}")
    try:
        store = Store.open(directory)
        try:
            yield store
        finally:
            store.close()
    except apsw.Error as error:
        _fail(f"can't use the journal in {directory}: {error}")


SinkName = Annotated[
    Optional[str], typer.Option("--sink", help='Only of this sink; "" for those that no sink was asked for.')
]


def _selected(store: Store, sink: str | None, ids: Sequence[int] = ()) -> Iterator[DeadLetter]:
    if ids:
        return store.dead_letters(f"id IN ({','.join('?' * len(ids))})", *ids)
    return store.dead_letters() if sink is None else store.dead_letters("sink = ?", sink)


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
                typer.echo(f"{letter.id}  {_when(letter)}  {letter.sink or '-'}  {what}  {letter.reason}{tries}")


@letters.command()
def export(
    config: ConfigFile = None,
    sink: SinkName = None,
    posts: Annotated[Optional[Path], typer.Option(help="Write bodies of refused posts here, as *.btposts.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what was exported.")] = False,
) -> None:
    """All of them as JSON, one a line: records as they are, refused posts in base64."""
    with _store(_load(config)) as store:
        exported = []
        with posts.open("wb") if posts else nullcontext() as file:
            for letter in _selected(store, sink):
                if letter.kind == "post" and file:
                    postfile.write_delimited(file, letter.body)
                typer.echo(json.dumps(_described(letter) | _content(letter), ensure_ascii=False))
                exported.append(letter.id)
        sys.stdout.flush()
        if delete:
            store.delete_dead_letters(exported)


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
            _fail(f"no dead letter {', '.join(map(str, sorted(missing)))}")
        marked = store.retry(found, list(loaded.sinks))
    typer.echo(f"{marked} marked to be tried again")
    if marked < len(found):
        _fail(f"{len(found) - marked} can't be: their sinks are not configured, or they have no valid timestamp")


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
