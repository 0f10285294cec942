"""Logs: text on a terminal, one JSON object per line elsewhere."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging, structlog
from btfeed.telemetry import logs
logs.configure("{level}")
log = structlog.get_logger()
log.debug("details")
log.info("heard", sink="a")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("a bug")
logging.getLogger("library").info("chatter")
logging.getLogger("library").warning("of a library: %s", 1)
print("result")
"""


def run(level: str) -> "subprocess.CompletedProcess[str]":
    program = PROGRAM.format(level=level)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


def test_a_pipe_gets_one_json_object_per_line() -> None:
    """Including tracebacks and the logs of libraries. Results go to stdout, logs to stderr."""
    result = run("INFO")
    heard, bug, library = map(json.loads, result.stderr.splitlines())
    assert result.stdout == "result\n"
    assert (heard["event"], heard["sink"], heard["level"]) == ("heard", "a", "info")
    assert heard["timestamp"].endswith("Z")
    assert "ZeroDivisionError: division by zero" in bug["exception"]
    assert (library["event"], library["level"]) == ("of a library: 1", "warning")


@pytest.mark.parametrize(("level", "lines"), [("DEBUG", 4), ("WARNING", 2), ("ERROR", 2)])
def test_the_level_is_that_of_btfeed(level: str, lines: int) -> None:
    """Libraries log warnings and errors only, whatever the level is."""
    assert len(run(level).stderr.splitlines()) == lines


def test_a_log_that_cannot_be_written_does_not_stop_the_work() -> None:
    """Such as on a full disk: lines are lost, and the program continues."""
    program = (
        "from btfeed.telemetry import logs; import structlog, logging; logs.configure(); log = structlog.get_logger()\n"
        "for number in range(10_000): log.warning('heard', number=number)\n"
        "logging.getLogger('library').warning('heard')\n"
        "print('done', flush=True)\n"
    )
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, check=False)
    assert ran.stdout == b"done\n"


def test_a_terminal_gets_text() -> None:
    """Not JSON."""
    controller, terminal = pty.openpty()
    program = (
        "from btfeed.telemetry import logs; import structlog; logs.configure()\n"
        "structlog.get_logger().info('heard', sink='a')\n"
    )
    environment = os.environ | {"TERM": "xterm"}
    subprocess.run([sys.executable, "-c", program], stderr=terminal, env=environment, check=True)
    os.close(terminal)
    shown = os.read(controller, 65_536).decode()
    os.close(controller)
    assert "heard" in shown
    assert "{" not in shown


def shown_on_a_terminal(program: str) -> str:
    """What a Python program writes to stderr if that is a terminal."""
    controller, terminal = pty.openpty()
    subprocess.run([sys.executable, "-c", program], stderr=terminal, env=os.environ | {"TERM": "xterm"}, check=True)
    os.close(terminal)
    shown = os.read(controller, 65_536).decode()
    os.close(controller)
    return shown


def test_a_traceback_on_a_terminal_shows_no_values() -> None:
    """Local variables may hold credentials."""
    program = (
        "from btfeed.telemetry import logs; import structlog; logs.configure()\n"
        "def work(token):\n    raise ValueError('broken')\n"
        "try:\n    work('hunter' + '2')\nexcept ValueError:\n    structlog.get_logger().exception('a bug')\n"
    )
    shown = shown_on_a_terminal(program)
    assert "ValueError" in shown
    assert "hunter2" not in shown


def test_a_terminal_is_not_controlled_by_what_is_logged() -> None:
    """What a far end answered may have control characters: in fields, in events and in the messages of exceptions."""
    program = (
        "from btfeed.telemetry import logs; import logging, structlog; logs.configure(); log = structlog.get_logger()\n"
        "log.warning('one', error='\\x1b[2J')\n"
        "try:\n    raise ValueError('two \\x1b[2J \\x9b2J')\nexcept ValueError:\n    log.exception('a bug')\n"
        "logging.getLogger('library').warning('three \\x1b[2J')\n"
    )
    shown = shown_on_a_terminal(program)
    assert shown.count(r"\u001b[2J") == 3
    assert "\x1b[2J" not in shown
    assert "\x9b" not in shown
