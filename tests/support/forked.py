"""btfeed as a process that is forked from one in which it is imported already. It starts in milliseconds, not in a second.

Most tests of servers use it. The full form of those in tests/system and tests/commands starts the command as users do.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path


class ForkedProcess:
    """`btfeed ARGUMENTS`, leading a session, with its output in the file `log`. It is used like subprocess.Popen."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._process = _context().Process(target=_run, args=(list(arguments), log, dict(environment)), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("btfeed", timeout)
        return self._process.exitcode


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["btfeed.commands.main", "btfeed.app.serve", "sinks.file.sink", "tests.support.forked"])
    return context


def _run(arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    from btfeed.commands.main import cli  # the forkserver has it; tests that import this module need not

    os.setsid()
    with log.open("ab") as file, Path(os.devnull).open("rb") as nothing:
        for source, descriptor in ((nothing, 0), (file, 1), (file, 2)):
            os.dup2(source.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["btfeed", *arguments]
    cli()
