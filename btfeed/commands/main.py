"""The command line: check, inspect, and the commands of the other modules."""

import json
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from btfeed import native
from btfeed.commands.cli import App
from btfeed.commands.config import config as config_commands
from btfeed.commands.config_file import ConfigFile, described, load, refuse
from btfeed.commands.dead_letters import dead_letters
from btfeed.commands.flow import flow
from btfeed.commands.init import init
from btfeed.commands.log_options import FORMAT, LEVEL, LogFormat, LogLevel, configure_logs
from btfeed.commands.records import records, tap
from btfeed.commands.serve import deliver, receive, serve
from btfeed.commands.sinks import sinks
from btfeed.commands.status import status
from btfeed.commands.terminal import fail
from btfeed.commands.traffic import traffic
from btfeed.faults import ConfigError
from btfeed.posts import files as postfile
from btfeed.posts.post import Malformed
from btfeed.records import describe
from btfeed.telemetry.printable import printable

cli = App(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Receive AppMon's Business Transactions feed and deliver it to Kafka, Elasticsearch, Dynatrace and files.",
)
cli.add_typer(dead_letters, name="dead-letters")
cli.add_typer(sinks, name="sinks")
cli.add_typer(traffic)
cli.add_typer(flow, name="flow")
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


cli.command()(serve)
cli.command()(receive)
cli.command()(deliver)


@cli.command()
def check(
    config: ConfigFile = None,
    command: Annotated[
        str, typer.Option("--for", metavar="COMMAND", help="Check what this command needs: serve, receive or deliver.")
    ] = "serve",
    log_level: LogLevel = LEVEL,
    log_format: LogFormat = FORMAT,
) -> None:
    """Check the configuration and the connection to each sink, without changing anything."""
    configure_logs(log_level, log_format)
    from btfeed.app import roles

    if command not in roles.BY_COMMAND:
        raise typer.BadParameter(f"no such command {command!r}: use serve, receive or deliver", param_hint="--for")
    role = roles.BY_COMMAND[command]
    loaded = load(config, role.tables, tolerant=True)
    try:
        loaded = role.of(loaded)
    except ConfigError as error:
        refuse(config, error.faults)
    typer.echo(f"configuration: {'incomplete' if loaded.unresolved else 'ok'}, {described(config)}")
    import uvloop  # both are slow to import, and not needed by every command

    from btfeed.app.check import check as run_checks

    results = uvloop.run(run_checks(loaded, role))  # the event loop of the server
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
