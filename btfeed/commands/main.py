"""The command line: serve, check, inspect, and the commands of the other modules."""

import asyncio
import faulthandler
import json
import sys
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Annotated

import structlog
import typer

from btfeed import inherited, native
from btfeed.commands.cli import App
from btfeed.commands.config import config as config_commands
from btfeed.commands.config_file import ConfigFile, described, load
from btfeed.commands.dead_letters import dead_letters
from btfeed.commands.init import init
from btfeed.commands.log_options import FORMAT, LEVEL, LogFormat, LogLevel, configure_logs
from btfeed.commands.records import records, tap
from btfeed.commands.sinks import sinks
from btfeed.commands.status import status
from btfeed.commands.supervise import become_supervisor
from btfeed.commands.terminal import fail
from btfeed.commands.traffic import traffic
from btfeed.journal.base import JournalError
from btfeed.posts import files as postfile
from btfeed.posts.post import Malformed
from btfeed.records import describe
from btfeed.signals import HangUps
from btfeed.telemetry.printable import printable

log = structlog.get_logger()
cli = App(
    no_args_is_help=True,
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
    supervise: Annotated[
        bool,
        typer.Option(
            "--supervise",
            help="Run the server as the child of a small process that holds its listening sockets and starts it again "
            "if it ends. SIGUSR2 restarts the server, and connections wait meanwhile.",
        ),
    ] = False,
    log_level: LogLevel = LEVEL,
    log_format: LogFormat = FORMAT,
) -> None:
    """Receive posts and deliver them, until SIGTERM or Ctrl-C. SIGHUP loads the configuration again."""
    hang_ups = HangUps()
    if not supervise:  # the supervisor handles it
        hang_ups.catch()
    configure_logs(log_level, log_format)
    loaded = load(config)
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
def check(config: ConfigFile = None, log_level: LogLevel = LEVEL, log_format: LogFormat = FORMAT) -> None:
    """Check the configuration and the connection to each sink, without changing anything."""
    configure_logs(log_level, log_format)
    loaded = load(config, tolerant=True)
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
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A *.bin or *.btposts file (also with .gz), or a folder of them.")
    ],
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


cli.command()(status)
