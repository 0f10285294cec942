"""Several processes that receive, by `btfeed receive --workers`: this one becomes their supervisor."""

import asyncio
import os
from typing import TYPE_CHECKING, NoReturn

from btfeed.commands.supervise import become_supervisor
from btfeed.inherited import Sockets
from btfeed.notify import WORKERS

if TYPE_CHECKING:
    from btfeed.config import Config


def become_supervisor_of(workers: int, config: "Config", given: Sockets) -> NoReturn:
    """Replace this process by one that holds the sockets of that many workers, and runs this command for each.
    Raises OSError. given: inherited sockets."""
    from btfeed.app.workers import open_sockets, private_directory

    directory = private_directory()
    try:
        sockets = asyncio.run(open_sockets(config, workers, directory, given))
    except OSError:
        for each in directory.iterdir():
            each.unlink()
        directory.rmdir()
        raise
    os.environ[WORKERS] = str(directory)
    become_supervisor(sockets)
