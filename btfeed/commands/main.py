"""The command line. Results go to stdout, progress and logs to stderr; exit 0 done, 1 failed, 2 usage or config."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from btfeed import native
from btfeed.address import host_and_port
from btfeed.app import check as checking
from btfeed.app import serve as app
from btfeed.commands.config_file import ConfigFile, load
from btfeed.commands.dead_letters import dead_letters
from btfeed.commands.terminal import fail
from btfeed.commands.traffic import traffic
from btfeed.config import Config
from btfeed.journal.base import JournalError
from btfeed.posts import files as postfile
from btfeed.posts.post import Malformed
from btfeed.records import describe as inspect
from btfeed.telemetry import logs

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Takes AppMon's Business Transactions feed and delivers it, every occurrence, without loss.",
)
cli.add_typer(dead_letters, name="dead-letters")
cli.add_typer(traffic)


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
    loaded = load(config)
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
    loaded = load(config)
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
    answer = _ask_for_status(load(config))
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


if __name__ == "__main__":
    cli()
