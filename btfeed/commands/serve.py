"""The commands that run until they are told to stop: serve, and its halves receive and deliver."""

import asyncio
import faulthandler
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Optional

import structlog
import typer

from btfeed import inherited, worker
from btfeed.commands.completion import sink_names
from btfeed.commands.config_file import ConfigFile, described, load, refuse
from btfeed.commands.log_options import FORMAT, LEVEL, LogFormat, LogLevel, configure_logs
from btfeed.commands.supervise import become_supervisor
from btfeed.commands.terminal import fail
from btfeed.commands.workers import become_supervisor_of
from btfeed.faults import ConfigError
from btfeed.journal.base import JournalError
from btfeed.receiving.settings import MAX_WORKERS
from btfeed.signals import HangUps

if TYPE_CHECKING:
    from btfeed.app.roles import Role
    from btfeed.config import Config

log = structlog.get_logger()

ANSWER = 2.0
"""Seconds that a process may take to say that it is running."""

Supervise = Annotated[
    bool,
    typer.Option(
        "--supervise",
        help="Run the server as the child of a small process that holds its listening sockets and starts it again "
        "if it ends. SIGUSR2 restarts the server, and connections wait meanwhile.",
    ),
]


def serve(
    config: ConfigFile = None,
    supervise: Supervise = False,
    log_level: LogLevel = LEVEL,
    log_format: LogFormat = FORMAT,
) -> None:
    """Receive posts and deliver them, until SIGTERM or Ctrl-C. SIGHUP loads the configuration again."""
    hang_ups = _begin(supervise, log_level, log_format)
    from btfeed.app.roles import SERVE

    loaded = _load(config, SERVE)
    if supervise:
        _supervise(loaded, SERVE)
    _run(loaded, config, SERVE, hang_ups)


def receive(
    config: ConfigFile = None,
    workers: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            max=MAX_WORKERS,
            metavar="NUMBER",
            help="Receive with N processes on the same port, under one supervisor. Default: receiver.workers.",
        ),
    ] = None,
    supervise: Supervise = False,
    log_level: LogLevel = LEVEL,
    log_format: LogFormat = FORMAT,
) -> None:
    """Only receive posts: other processes deliver them. Needs a journal in Kafka."""
    hang_ups = _begin(True, log_level, log_format)  # whether this becomes a supervisor, the configuration says
    from btfeed.app.roles import RECEIVE

    own, directory = worker.take()
    loaded = _load(config, RECEIVE)
    number = workers or loaded.receiver.workers
    if own is None and (supervise or number > 1):
        _supervise(loaded, RECEIVE, number)
    hang_ups.catch()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    if own is not None:
        structlog.contextvars.bind_contextvars(worker=str(own))  # as the supervisor says it
    if own is not None and not own.number:
        if number != own.of:
            log.warning(
                "the number of workers has changed", now=own.of, configured=number, hint="stop btfeed, and start it"
            )
        _answer(loaded, config, own.of, Path(directory), hang_ups)
    else:
        _run(loaded, config, replace(RECEIVE, worker=own), hang_ups)


def deliver(
    config: ConfigFile = None,
    sink: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="NAME", help="Deliver to this sink only. Can be given several times.", autocompletion=sink_names
        ),
    ] = None,
    leave: Annotated[
        bool,
        typer.Option(
            "--leave",
            help="Deliver nothing: let others take over the partitions of this instance, which has ended, at once. "
            "Otherwise they wait for journal.session_timeout, in case it starts again.",
        ),
    ] = False,
    log_level: LogLevel = LEVEL,
    log_format: LogFormat = FORMAT,
) -> None:
    """Only deliver posts that other processes receive. Needs a journal in Kafka."""
    hang_ups = _begin(False, log_level, log_format)
    from btfeed.app import roles

    role = roles.deliver(sink or ())
    if leave:
        _leave(_load(config, role))
    else:
        _run(_load(config, role), config, role, hang_ups)


def _begin(supervise: bool, log_level: LogLevel, log_format: LogFormat) -> HangUps:
    hang_ups = HangUps()
    if not supervise:  # the supervisor handles it
        hang_ups.catch()
    configure_logs(log_level, log_format)
    return hang_ups


def _load(path: Path | None, role: "Role") -> "Config":
    """Exits with status 2 if the configuration has faults, or is not for this role."""
    loaded = load(path, role.tables)
    try:
        return role.of(loaded)
    except ConfigError as error:
        refuse(path, error.faults)


def _supervise(loaded: "Config", role: "Role", workers: int = 1) -> NoReturn:
    """Become a supervisor."""
    from btfeed.app.listeners import open_listeners

    try:
        given = inherited.take()
        if workers > 1:
            become_supervisor_of(workers, loaded, given)
        become_supervisor(asyncio.run(open_listeners(loaded, given, role.receives)))
    except OSError as error:
        fail(f"can't start: {error}")


def _answer(loaded: "Config", config: Path | None, workers: int, directory: Path, hang_ups: HangUps) -> None:
    """Answer for the workers."""
    from btfeed.app.roles import RECEIVE
    from btfeed.app.workers import answer_for_workers
    from btfeed.config import load as load_again

    def again() -> "Config":
        return load_again(config, needs=RECEIVE.tables)

    try:
        sockets = inherited.take()
        asyncio.run(answer_for_workers(loaded, sockets, directory, workers, load=again, hang_ups=hang_ups))
    except OSError as error:
        fail(f"can't start: {error}")
    finally:
        hang_ups.ignore()


def _run(loaded: "Config", config: Path | None, role: "Role", hang_ups: HangUps) -> None:
    log.info("configuration loaded", configuration=described(config))
    from btfeed.app.listeners import listen_early

    try:
        sockets = asyncio.run(listen_early(loaded, inherited.take(), role.receives))
        import uvloop  # both are slow to import, and not needed by every command

        from btfeed.app.serve import serve as run_server
        from btfeed.config import load as load_again

        def again() -> "Config":
            return role.of(load_again(config, needs=role.tables))

        faulthandler.enable(sys.__stderr__ or sys.stderr)  # says where a server hung that a watchdog ended
        uvloop.run(run_server(loaded, role=role, sockets=sockets, load=again, hang_ups=hang_ups))
    except (JournalError, OSError) as error:  # ssl.SSLError is an OSError
        fail(f"can't start: {error}")
    finally:
        hang_ups.ignore()


def _leave(config: "Config") -> None:
    from btfeed.journal import create as journals

    if place := _runs_at(config):
        fail(f"can't leave: instance {journals.instance(config.journal)} is running, and answers at {place}. Stop it first")
    try:
        left = asyncio.run(journals.leave(config.journal, list(config.sinks)))
    except JournalError as error:
        fail(f"can't leave: {error}")
    for name in config.sinks:
        typer.echo(f"sink {name}: {'left' if name in left else 'was no member'}")
    if config.sinks and not left:
        name = journals.instance(config.journal)
        typer.echo(f"no sink has a member {name}: `btfeed status --cluster` shows which there are", err=True)


def _runs_at(config: "Config") -> str | None:
    """Where the admin listener of this configuration answers for the process that delivers as this instance."""
    from btfeed.commands.admin_client import AdminClient, AdminError
    from btfeed.journal import create as journals

    client = AdminClient.configured(config, timeout=ANSWER)
    try:
        shown = json.loads(client.status())
    except AdminError:  # it runs nowhere, or elsewhere
        return None
    same = {key: shown.get(key) for key in ("instance", "prefix")} == journals.identity(config.journal)
    return client.place if same and shown.get("role") != "receive" else None
