"""Logs: text on a terminal, one JSON object per line elsewhere."""

import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging, structlog
from btfeed.telemetry import logs
logs.configure("{level}", "{format}")
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


def run(level: str, format: str = "auto") -> "subprocess.CompletedProcess[str]":
    program = PROGRAM.format(level=level, format=format)
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


@pytest.mark.parametrize("options", [[], ["-u"]])
def test_a_line_is_one_write(options: list[str]) -> None:
    """So that the lines of a supervisor and of its servers, which write to the same file, do not run together."""
    received, sent = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with received, sent:
        program = PROGRAM.format(level="INFO", format="json")
        subprocess.run(
            [sys.executable, *options, "-c", program], stdout=subprocess.DEVNULL, stderr=sent.fileno(), check=True
        )
        received.setblocking(False)
        writes = [received.recv(2**16) for _ in range(3)]
        assert [json.loads(each)["level"] for each in writes] == ["info", "error", "warning"]
        assert all(each.endswith(b"}\n") for each in writes)
        with pytest.raises(BlockingIOError):
            received.recv(1)


@pytest.mark.parametrize(("level", "lines"), [("DEBUG", 4), ("WARNING", 2), ("ERROR", 2)])
def test_the_level_is_that_of_btfeed(level: str, lines: int) -> None:
    """Libraries log warnings and errors only, whatever the level is."""
    assert len(run(level).stderr.splitlines()) == lines


def test_a_pipe_gets_text_if_asked_to() -> None:
    """Without colors, and the same lines."""
    text = run("INFO", "console").stderr
    assert "[info     ] heard" in text
    assert "sink=a" in text
    assert "ZeroDivisionError: division by zero" in text
    assert "of a library: 1" in text
    assert "\x1b" not in text


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


def shown_on_a_terminal(program: str, **variables: str) -> str:
    """What a Python program writes to stderr if that is a terminal."""
    controller, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm"} | variables
    subprocess.run([sys.executable, "-c", program], stderr=terminal, env=environment, check=True)
    os.close(terminal)
    shown = os.read(controller, 65_536).decode()
    os.close(controller)
    return shown


def test_a_terminal_gets_json_if_asked_to_and_no_color_if_not_wanted() -> None:
    """NO_COLOR is what other programs go by, too."""
    program = (
        "from btfeed.telemetry import logs; import structlog; logs.configure(format={!r}); structlog.get_logger().info('a')"
    )
    assert json.loads(shown_on_a_terminal(program.format("json")))["event"] == "a"
    assert "\x1b" in shown_on_a_terminal(program.format("auto"))
    assert "\x1b" not in shown_on_a_terminal(program.format("auto"), NO_COLOR="1")


def test_what_a_task_is_bound_to_is_in_all_its_lines() -> None:
    """Those of libraries included: this is how they get the name of the sink that uses them."""
    program = (
        "from btfeed.telemetry import logs; import logging, structlog; logs.configure()\n"
        "with structlog.contextvars.bound_contextvars(sink='a'):\n"
        "    structlog.get_logger().info('own')\n    logging.getLogger('library').warning('other')\n"
        "structlog.get_logger().info('after')\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = map(json.loads, ran.stderr.splitlines())
    assert [(line["event"], line.get("sink")) for line in lines] == [("own", "a"), ("other", "a"), ("after", None)]


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
