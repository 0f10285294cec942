"""The first lines of a command: signals that must not end a server which starts."""

import subprocess
import sys

import pytest

from tests.support.harness import DEADLINE

HELD = """
import signal, sys
import btfeed.early
held = btfeed.early.hold
def hold(supervise):
    held(supervise)
    print(*sorted(each.name for each in signal.pthread_sigmask(signal.SIG_BLOCK, [])), file=sys.stderr)
    print(*sys.modules, file=sys.stderr)
    sys.exit()
btfeed.early.hold = hold
import btfeed.__main__
btfeed.__main__.main()
"""


def run(*arguments: str) -> list[str]:
    """What is held, and the modules that are imported then. Nothing if nothing is held."""
    command = [sys.executable, "-c", HELD, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True).stderr.splitlines()


@pytest.mark.parametrize(("options", "expected"), [([], "SIGHUP"), (["--supervise"], "SIGHUP SIGUSR2")])
def test_signals_are_held_before_anything_slow_is_imported(options: list[str], expected: str) -> None:
    """The supervisor handles one more."""
    held, modules = run("serve", *options)
    assert held == expected
    assert not {"asyncio", "typer", "structlog", "pydantic", "btfeed.commands", "btfeed.signals"} & set(modules.split())


def test_other_commands_hold_none() -> None:
    """A terminal that is closed ends them."""
    assert run("--version") == []
