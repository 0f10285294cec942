"""What `btfeed serve --supervise` does: the process becomes a supervisor (btfeed/supervisor.py)."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from btfeed.inherited import Sockets, pass_on

OPTION = "--supervise"


def become_supervisor(sockets: Sockets) -> NoReturn:
    """Replace this process by a small one that holds `sockets` and runs this command as its child. The pid stays."""
    program = [sys.executable, "-P", "-m", "btfeed.supervisor"]
    command = server_command(sys.argv, sys.orig_argv)
    os.execve(program[0], [*program, *command], os.environ | pass_on(sockets))  # noqa: S606 - the user's own command


def server_command(arguments: Sequence[str], original: Sequence[str]) -> list[str]:
    """The command line of the server: this one without --supervise. arguments, original: sys.argv, sys.orig_argv.

    An installed command is started by its own path, not by that of its interpreter. So if a link in the path leads to
    another version by then, that version starts.
    """
    installed = os.access(arguments[0], os.X_OK)
    command = [os.path.abspath(arguments[0]), *arguments[1:]] if installed else [sys.executable, *original[1:]]  # noqa: PTH100
    return [argument for argument in command if argument != OPTION]
