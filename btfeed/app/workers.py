"""Several receivers on one machine (`btfeed receive --workers`): their sockets, and the process that answers for all.

The supervisor holds the sockets (supervisor.py), starts the processes, and starts them again. Each worker has a receiving
socket of its own on the same port, and the kernel gives each new connection to one of them. While a worker is away, its
connections wait. A socket that systemd holds is shared by all workers.
"""

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import structlog

from btfeed.address import BACKLOG, bind, check_free, listen
from btfeed.admin.workers import WorkersAdmin
from btfeed.app.in_use import naming
from btfeed.app.listeners import check_addresses, close
from btfeed.app.notifier import Notifier
from btfeed.config import Config
from btfeed.faults import ConfigError
from btfeed.inherited import ADMIN, RECEIVER, Sockets
from btfeed.signals import HangUps, stop_on_signals

log = structlog.get_logger()


def private_directory() -> Path:
    """A new directory that only this user may enter: systemd's RuntimeDirectory= is where it is, if there is one."""
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(tempfile.mkdtemp(prefix="btfeed-workers-", dir=runtime or None))


async def open_sockets(config: Config, workers: int, directory: Path, inherited: Sockets = MappingProxyType({})) -> Sockets:
    """The sockets of the workers, and of the process that answers for them, named for the supervisor. Raises OSError.

    directory: where the sockets of the workers' admin listeners are made
    """
    await check_addresses(config)
    sockets: dict[str, list[socket.socket]] = {}
    try:
        with naming("receiver.listen", config.receiver.listen):
            receiving = await _receiving(config.receiver.listen, workers, list(inherited.get(RECEIVER, ())))
        for number, each in enumerate(receiving, 1):
            sockets[f"{RECEIVER}@{number}"] = each
            sockets[f"{ADMIN}@{number}"] = [_private(directory / str(number))]
        with naming("admin.listen", config.admin.listen):
            sockets[ADMIN] = await listen(config.admin.listen, inherited.get(ADMIN, ()), "admin.listen")
    except OSError:
        close(sockets)
        raise
    return sockets


async def _receiving(address: str, workers: int, inherited: list[socket.socket]) -> list[list[socket.socket]]:
    """For each worker, sockets that listen there."""
    if inherited:
        shared = await listen(address, inherited, "receiver.listen")
        return [shared for _ in range(workers)]
    await check_free(address)  # other sockets with SO_REUSEPORT would be no error
    first = await bind(address, beside=())
    made = [first]
    made += [await bind(address, beside=first) for _ in range(1, workers)]
    for sockets in made:
        for each in sockets:
            each.listen(BACKLOG)
    return made


def _private(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    made.listen(BACKLOG)
    return made


async def answer_for_workers(
    config: Config, sockets: Sockets, directory: Path, workers: int, *, load: Callable[[], Config], hang_ups: HangUps
) -> None:
    """Answer for all workers, until SIGTERM or SIGINT, or until the supervisor is gone. Raises OSError.

    load, hang_ups: for reloads, see app/serve.py; only the admin token is taken over
    """
    stop = stop_on_signals()
    notifier = Notifier()
    admin = WorkersAdmin(config.admin, directory, workers)
    if notifier.takes_over:
        await notifier.take_over()
    try:
        await admin.start(sockets[ADMIN])
        notifier.ready(f"answering for {workers} receivers")
        tasks = [
            asyncio.create_task(each)
            for each in (
                stop.wait(),
                notifier.orphaned(lambda reason: None),
                _reload(admin, load, hang_ups, notifier),
                notifier.keep_alive(_answer),
            )
        ]
        await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        notifier.stopping()
        await admin.stop()
        close(sockets)
        notifier.released()


async def _answer() -> None:
    """The event loop runs: there is nothing else that could hang."""


async def _reload(admin: WorkersAdmin, load: Callable[[], Config], hang_ups: HangUps, notifier: Notifier) -> None:
    while True:
        await hang_ups.wait()
        with notifier.during_reload():
            try:
                admin.reconfigure((await asyncio.to_thread(load)).admin)
            except ConfigError:
                log.debug("configuration not reloaded: the workers say why")
