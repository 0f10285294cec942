"""The command line: serve, check, inspect, status, and the commands of the other modules."""

import asyncio
import faulthandler
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer

from btfeed import inherited, native
from btfeed.commands.admin_client import AdminClient, AdminError
from btfeed.commands.config import config as config_commands
from btfeed.commands.config_file import ConfigFile, described, load
from btfeed.commands.dead_letters import dead_letters
from btfeed.commands.init import init
from btfeed.commands.records import records, tap
from btfeed.commands.sinks import sinks
from btfeed.commands.supervise import become_supervisor
from btfeed.commands.terminal import count, fail
from btfeed.commands.traffic import traffic
from btfeed.journal.base import JournalError
from btfeed.posts import files as postfile
from btfeed.posts.post import Malformed
from btfeed.records import describe
from btfeed.records.encoding import rfc3339
from btfeed.signals import HangUps
from btfeed.telemetry import logs
from btfeed.telemetry.printable import printable

if TYPE_CHECKING:
    from btfeed.config import Config

log = structlog.get_logger()
cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Receive AppMon's Business Transactions feed and deliver it to Kafka, Elasticsearch, Dynatrace and files.",
)
cli.add_typer(dead_letters, name="dead-letters")
cli.add_typer(sinks, name="sinks")
cli.add_typer(traffic)
cli.command()(init)
cli.add_typer(config_commands, name="config")
cli.command()(records)
cli.command()(tap)


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
    supervise: Annotated[
        bool,
        typer.Option(
            "--supervise",
            help="Run the server as the child of a small process that holds its listening sockets and starts it again "
            "if it ends. SIGUSR2 restarts the server, and connections wait meanwhile.",
        ),
    ] = False,
) -> None:
    """Receive posts and deliver them, until SIGTERM or Ctrl-C. SIGHUP loads the configuration again."""
    hang_ups = HangUps()
    hang_ups.catch()
    loaded = load(config)
    if log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise typer.BadParameter(
            f"unknown log level {log_level!r}: use DEBUG, INFO, WARNING or ERROR", param_hint="--log-level"
        )
    logs.configure(log_level.upper())
    log.info("configuration loaded", configuration=described(config))
    from btfeed.app.listeners import listen_early, open_listeners

    try:
        given = inherited.take()
        if supervise:
            become_supervisor(asyncio.run(open_listeners(loaded, given)))
        sockets = asyncio.run(listen_early(loaded, given))
        import uvloop  # both are slow to import, and not needed by every command

        from btfeed.app.serve import serve as run_server
        from btfeed.config import load as load_again

        faulthandler.enable(sys.__stderr__ or sys.stderr)  # says where a server hung that a watchdog ended
        uvloop.run(run_server(loaded, sockets=sockets, load=lambda: load_again(config), hang_ups=hang_ups))
    except (JournalError, OSError) as error:  # ssl.SSLError is an OSError
        fail(f"can't start: {error}")
    finally:
        hang_ups.ignore()


@cli.command()
def check(config: ConfigFile = None) -> None:
    """Check the configuration and the connection to each sink, without changing anything."""
    loaded = load(config, tolerant=True)
    logs.configure()
    typer.echo(f"configuration: {'incomplete' if loaded.unresolved else 'ok'}, {described(config)}")
    import uvloop  # both are slow to import, and not needed by every command

    from btfeed.app.check import check as run_checks

    results = uvloop.run(run_checks(loaded))  # the event loop of the server
    for result in results:
        verdict, text = ("failed", result.failure) if result.failure else (result.verdict, result.what)
        typer.echo(printable(f"{result.path}: {verdict}, {text}"))
    if any(result.failure for result in results):
        raise typer.Exit(1)


@cli.command("inspect")
def inspect(
    file: Annotated[Path, typer.Argument(help="A *.bin or *.btposts file (also with .gz), or a folder of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per post.")] = False,
) -> None:
    """Show recorded posts in readable form, and which rules of the field table they break."""
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
                typer.echo(printable("\n".join([f"post {number}: {next(lines)}", *lines])))
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
    text = _fetch_status(load(config, needs=("admin",)))
    typer.echo(text if as_json else printable("\n".join(_status_lines(json.loads(text)))))


def _fetch_status(config: "Config") -> bytes:
    try:
        return AdminClient.configured(config).status()
    except AdminError as error:
        fail(str(error))


def _status_lines(status: dict[str, Any]) -> Iterator[str]:
    counts = status["counts"]
    ready = "ready" if status["ready"] else f"NOT READY: {status['refusing']}"
    yield f"btfeed {status['version']}, up {status['uptime_seconds']:.0f} s, {ready}"
    refused = counts["refused_posts"]
    reasons = ", ".join(f"{reason} {number}" for reason, number in refused.items())
    lost = sum(counts["lost_posts"].values())
    yield (
        f"received: {count(counts['posts'], 'post')} with {count(counts['received_occurrences'], 'occurrence')}, "
        f"{count(sum(refused.values()), 'request')} refused{f' ({reasons})' if reasons else ''}"
        + (f", {count(lost, 'post')} lost" if lost else "")
    )
    yield f"journal: {count(counts['journal_posts'], 'post')}, {counts['journal_bytes'] / 2**20:.1f} MiB"
    if losses := ", ".join(_losses(counts)):
        yield f"LOST: {losses}"
    for name, sink in status["sinks"].items():
        yield f"sink {name}: {_sink_line(sink)}"
        for blocked in sink["blocked"]:
            since = rfc3339(blocked["since"])
            waiting = f"{count(blocked['waiting'], 'record')} waiting"
            yield f"  {blocked['destination']}: takes nothing since {since}, {waiting}: {blocked['reason']}"
        if more := sink["blocked_destinations"] - len(sink["blocked"]):
            yield f"  {count(more, 'more destination')} that take nothing"
    for kept in status["dead_letters"] or ():
        yield f"kept: {_kept_line(kept)}"
    for violation in status["violations"]:
        yield "{}: {rule} {field} in {transaction!r}".format(count(violation["count"], "violation"), **violation)


def _losses(counts: dict[str, Any]) -> Iterator[str]:
    """What is gone besides posts that were refused, and why."""
    if evicted := sum(counts["evicted_dead_letters"].values()):
        yield f"{count(evicted, 'dead letter')} deleted at the bound journal.dead_letters"
    for sink, skipped in counts.get("skipped_posts", {}).items():
        yield f"{count(skipped, 'post')} of sink {sink} skipped by an operator"
    for sink, dropped in counts["journal_dropped_posts"].items():
        yield f"{count(dropped, 'post')} of sink {sink} dropped because the journal was full"
    if lost := counts["journal_lost_posts"]:
        yield f"{count(lost, 'post')} lost in a damaged journal"


def _sink_line(sink: dict[str, Any]) -> str:
    posts = sink["backlog_posts"]
    backlog = "backlog unknown" if posts is None else f"{count(posts, 'post')} behind"
    if posts:
        backlog += f" (oldest: {sink['backlog_age_seconds']:.0f} s)"
    parts = [sink["state"], f"{count(sink['delivered'], 'record')} delivered", backlog]
    parts.append(count(sink["dead_letters"], "dead letter"))
    if sink["last_error"]:
        parts.append(f"last error: {sink['last_error']}")
    return ", ".join(parts)


def _kept_line(kept: dict[str, Any]) -> str:
    owner = f"of sink {kept['sink']}" if kept["sink"] else "of no sink"
    oldest = f"the oldest {kept['oldest_age_seconds']:.0f} s old"
    return f"{count(kept['letters'], 'dead letter')} {owner}, {kept['reason']}, {oldest}"


if __name__ == "__main__":
    cli()
