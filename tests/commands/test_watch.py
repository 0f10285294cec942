"""`btfeed status --watch`: what it shows, that it outlives the server, and how it ends."""

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from btfeed.commands.admin_client import AnotherServer, NotRunning
from btfeed.commands.watch import View, line, table
from tests.commands.test_admin_client import answering
from tests.commands.test_main import invoke
from tests.support import posts
from tests.support.harness import BTFEED, Server, until

MIB = 2**20
NOW = 1_767_225_600_000
"""2026-01-01T00:00:00Z"""


def sink(**more: Any) -> dict[str, Any]:
    found = {
        "state": "running", "delivered": 0, "dead_letters": 0, "backlog_posts": 0, "backlog_age_seconds": 0.0,
        "last_error": None, "last_error_time": None, "blocked": [], "blocked_destinations": 0,
    }  # fmt: skip
    return found | more


def status(uptime: float, posts: int, sinks: dict[str, Any], left: int = 0, **more: Any) -> dict[str, Any]:
    counts = {
        "posts": posts, "received_occurrences": 10 * posts, "refused_posts": {}, "journal_undelivered_bytes": left,
        "journal_bytes": 50 * MIB, "journal_limit_bytes": 100 * MIB, "journal_free_bytes": 1000 * MIB,
    }  # fmt: skip
    return {
        "version": "1.0", "uptime_seconds": uptime, "ready": True, "refusing": None, "counts": counts,
        "dead_letters": [], "sinks": sinks,
    } | more  # fmt: skip


def viewed(*statuses: dict[str, Any]) -> View:
    """A view after these answers, ten seconds apart."""
    view = View()
    answers = iter(statuses)
    for number in range(len(statuses)):
        view.update(10.0 * number, NOW, lambda: json.dumps(next(answers)).encode())
    return view


def shown(view: View) -> str:
    """The table as text, on a terminal of 80 columns."""
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table(view, NOW + 60_000))
    return capture.get()


def raising(error: Exception) -> Callable[[], bytes]:
    def ask() -> bytes:
        raise error

    return ask


BEHIND = sink(
    state="unavailable", backlog_posts=40, backlog_age_seconds=90.0, last_error="HTTP 503 \x1b[2J", last_error_time=NOW,
    blocked=[{"destination": "topic orders", "reason": "does not exist", "since": NOW, "waiting": 3}],
)  # fmt: skip
TWO = (
    status(10, 0, {"files": sink(), "search": sink(backlog_posts=20)}, 10 * MIB),
    status(20, 500, {"files": sink(delivered=5000), "search": BEHIND}, 20 * MIB,
           dead_letters=[{"sink": "", "reason": "malformed", "letters": 2, "oldest_age_seconds": 1.0}]),
)  # fmt: skip


def test_the_table_shows_rates_backlogs_and_errors() -> None:
    """And when the journal will be full at this rate. What a far end said can't control the terminal."""
    text = shown(viewed(*TWO))
    assert "btfeed 1.0, up 20 s, ready" in text
    assert "receives 50 posts/s, 500 occurrences/s" in text
    assert "journal 50% used, 20.0 MiB undelivered, full in 1 min 20 s at this rate" in text
    assert "2 dead letters waiting" in text
    assert [row.split() for row in text.splitlines() if row.lstrip().startswith(("files", "search "))] == [
        ["files", "running", "500", "0", "-"],
        ["search", "unavailable", "0", "40", "1", "min", "30", "s"],
    ]
    assert r"search, last error at 2026-01-01T00:00:00.000Z (1 min ago): HTTP 503 \u001b[2J" in " ".join(text.split())
    assert "search, topic orders takes nothing, 3 records waiting: does not exist" in " ".join(text.split())
    assert "\x1b[2J" not in text


def test_an_error_without_a_time_is_shown() -> None:
    """What keeps a sink from being opened is so now: the server says no time."""
    stuck = sink(state="opening", last_error="no broker replies")
    assert "\na, error: no broker replies\n" in shown(viewed(status(10, 0, {"a": stuck})))


def test_a_line_shows_the_same() -> None:
    """Without the errors, so that it stays one line."""
    assert line(viewed(*TWO)) == (
        "ready; 50 posts/s; 500 occurrences/s; "
        "journal 50% used, 20.0 MiB undelivered, full in 1 min 20 s at this rate; "
        "files: running, 500 records/s, 0 posts behind; "
        "search: unavailable, 0 records/s, 40 posts behind (oldest: 1 min 30 s); 2 dead letters waiting"
    )


def test_a_journal_that_empties_says_so() -> None:
    """And when all will be delivered."""
    falling = (status(10, 0, {"a": sink()}, 20 * MIB), status(20, 0, {"a": sink()}, 10 * MIB))
    assert "10.0 MiB undelivered, emptying, delivered in 10 s" in line(viewed(*falling))


def test_a_server_that_refuses_posts_is_conspicuous() -> None:
    """With the reason, and how many it refuses."""
    before, after = status(10, 0, {}), status(20, 0, {}, ready=False, refusing="the journal is full")
    after["counts"] |= {"refused_posts": {"journal_full": 50}}
    for text in (shown(viewed(before, after)), line(viewed(before, after))):
        assert "NOT READY: the journal is full" in text
        assert "5.0 requests refused/s" in text


def test_a_server_that_goes_away_is_shown_until_it_is_back() -> None:
    """Since when, and why. The last figures stay, and those of the new process are not compared with them."""
    view = viewed(*TWO)
    assert view.update(30, NOW + 1000, raising(NotRunning("no response"))) is None
    assert view.update(40, NOW + 2000, raising(AnotherServer("a proxy answers"))) is None
    assert shown(view).startswith("no answer since 2026-01-01T00:00:01.000Z: a proxy answers\nbtfeed 1.0, up 20 s")
    assert line(view) == "a proxy answers"
    assert view.update(50, NOW + 3000, lambda: json.dumps(status(1, 3, {})).encode())
    assert shown(view).startswith("btfeed 1.0, up 1 s, ready\nreceives ...\n")


def test_a_server_that_is_not_up_yet_is_waited_for() -> None:
    """But not for one that will never be it."""
    view = View()
    assert view.update(0, NOW, raising(NotRunning("no response"))) is None
    assert shown(view) == "no answer since 2026-01-01T00:00:00.000Z: no response\n"
    with pytest.raises(AnotherServer):
        View().update(0, NOW, raising(AnotherServer("another")))


def test_watching_another_server_is_exit_1() -> None:
    """At once, with the reason."""
    with answering(404, b"<html>", {}) as listener:
        result = invoke("status", "--watch", "--url", listener.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is not btfeed's admin listener (HTTP 404)" in result.stderr


@contextmanager
def watching(server: Server, output: int, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    config = server.directory / "asked.toml"
    config.write_text(f'[admin]\nlisten = "{server.admin_url[7:]}"\n')
    command = [*BTFEED, "status", "-c", str(config), "--watch", "--interval", "100ms", *options]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_terminal_gets_a_table_that_ctrl_c_ends(tmp_path: Path) -> None:
    """With exit 0, and the cursor back. It is one table that changes, over a restart of the server too."""
    controller, terminal = pty.openpty()
    with Server(tmp_path).keep_ports() as server, watching(server, terminal) as process:
        os.close(terminal)
        text = bytearray()

        def reads(what: bytes) -> bool:
            text.extend(os.read(controller, 65_536))
            return what in text

        def shows_posts() -> bool:
            assert server.post(posts.sample_visit()) == (200, "")
            reads(b"")
            return re.search(rb"receives [\d,.]*[1-9][\d,.]* posts/s", text) is not None

        until(lambda: reads(b"receives 0 posts/s"), "the table is shown")
        server.stop()
        until(lambda: reads(b"no answer since"), "it is away")
        server.start()
        until(shows_posts, "it is back, and gets posts")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr
        assert process.stderr.read() == b""
        until(lambda: reads(b"\x1b[?25h"), "the cursor is back")
    os.close(controller)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pipe_gets_a_line_each_time(number: signal.Signals, server: Server, tmp_path: Path) -> None:
    """Each is flushed. With --json, each is what the server answers."""
    for options, begins in ((["--json"], b'{"version":'), ([], b"20")):
        with watching(server, subprocess.PIPE, *options) as process:
            assert process.stdout
            for _ in range(3):
                assert process.stdout.readline().startswith(begins)
            process.send_signal(number)
            assert process.wait(30) == 0
            assert process.stderr
            assert process.stderr.read() == b""
