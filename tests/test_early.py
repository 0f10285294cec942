"""The first lines of a command: signals that must not end a server which starts."""

import signal
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


INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "btfeed.commands.main" and "imports" in sys.argv:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
if "ignored" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
import btfeed.__main__
from btfeed.commands import cli
handler = lambda: signal.getsignal(signal.SIGINT)
cli.App.__call__ = lambda self: print(getattr(handler(), "__name__", None) or handler().name)
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


def interrupted(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """What becomes of a command that gets SIGINT as its imports begin, and how it handles the signal after them."""
    command = [sys.executable, "-c", INTERRUPTED, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "status", "flow"])
def test_an_interrupt_during_imports_is_no_traceback(command: str) -> None:
    """The process ends as of the signal, and says nothing. Where it is ignored, it stays so."""
    ended = interrupted(command, "imports")
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")
    ended = interrupted(command, "imports", "ignored")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "SIG_IGN\n", "")


def test_an_interrupt_is_an_exception_afterwards() -> None:
    """But for flows, which it ends at any time."""
    assert interrupted("status").stdout == "default_int_handler\n"
    assert interrupted("flow").stdout == "SIG_DFL\n"
