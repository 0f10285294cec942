"""btfeed tap: the records that sinks get, live, and readers that are slow, gone or too many."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pytest

from btfeed.telemetry.tap import MAX_WATCHERS
from tests.support.harness import BTFEED, DEADLINE, Server, until
from tests.support.posts import mixed, sample_purepath, sample_visit

PRIVACY = '[record.privacy]\nhash = ["client.ip"]\nkey = "k"\ndrop = ["appmon.server"]\n'


def two_sinks(directory: Path, more: str = "", admin: str = "") -> Server:
    sinks = f'[sinks.files]\ntype = "file"\ndirectory = "{directory / "files"}"\ndelivery = {{ linger = "5ms" }}\n'
    other = f'[sinks.visits]\ntype = "file"\ndirectory = "{directory / "visits"}"\nfilter = {{ category = ["visit"] }}\n'
    return Server(directory, sinks + other + more, admin=admin)


def taps(server: Server) -> float:
    line = next(line for line in server.get("/metrics").splitlines() if line.startswith("btfeed_taps "))
    return float(line.split()[1])


@contextmanager
def tap(server: Server, *arguments: str, expected: int = 1) -> Iterator["subprocess.Popen[bytes]"]:
    """The command, once the server has it as one of `expected` readers."""
    config = server.directory / "asked.toml"
    config.write_text(f'[admin]\nlisten = "{server.admin_url.removeprefix("http://")}"\n')
    command = [*BTFEED, "tap", "-c", str(config), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            until(lambda: taps(server) == expected, "the server has the reader")
            yield process
        finally:
            process.kill()


def read(file: IO[bytes] | None, lines: int) -> list[dict[str, Any]]:
    assert file
    return [json.loads(file.readline()) for _ in range(lines)]


@pytest.mark.slow
def test_records_are_shown_as_they_are_delivered(tmp_path: Path) -> None:
    """Of every sink, after privacy, until --limit or Ctrl-C, with exit 0."""
    with two_sinks(tmp_path, PRIVACY) as server:
        assert server.post(mixed(5)) == (200, "")
        server.delivered(5)
        until(lambda: not any(sink["backlog_posts"] for sink in server.status()["sinks"].values()), "nothing behind")
        with tap(server, "--limit", "3") as limited, tap(server, expected=2) as endless:
            assert server.post(sample_purepath()) == (200, "")
            assert server.post(sample_visit()) == (200, "")
            written = server.delivered(7)[5:]
            found = read(limited.stdout, 3)
            assert limited.wait(DEADLINE) == 0
            assert limited.stdout
            assert limited.stdout.read() == b""
            assert sorted(line["sink"] for line in found) == ["files", "files", "visits"]
            assert [line["record"] for line in found if line["sink"] == "files"] == written
            assert "appmon.server" not in found[0]["record"]
            read(endless.stdout, 3)
            endless.send_signal(signal.SIGINT)
            assert endless.wait(DEADLINE) == 0
            assert endless.stderr
            assert endless.stderr.read() == b""
        until(lambda: taps(server) == 0, "the readers are gone")


@pytest.mark.slow
def test_a_reader_chooses_sinks_and_transactions(tmp_path: Path) -> None:
    """By their names. It ends with the server, with exit 0."""
    with (
        two_sinks(tmp_path) as server,
        tap(server, "--sink", "visits", "--transaction", "other", "--transaction", "btName") as some,
        tap(server, "--transaction", "no such", expected=2) as none,
    ):
        for body in (sample_purepath(), sample_visit()):
            assert server.post(body) == (200, "")
        server.delivered(2)
        (line,) = read(some.stdout, 1)
        assert (line["sink"], line["record"]["event.category"]) == ("visits", "visit")
        assert server.stop() == 0
        for process in (some, none):
            stdout, stderr = process.communicate(timeout=DEADLINE)
            assert (process.returncode, stdout, stderr) == (0, b"", b"the server ended the tap\n")


def test_a_reader_that_never_reads_loses_records_and_nobody_else_does(tmp_path: Path) -> None:
    """Posts are taken and delivered. What it lost is counted, and told in the stream where it is missing."""
    with two_sinks(tmp_path) as server, _stalled(server) as stalled:
        until(lambda: taps(server) == 1, "it is there")
        sent = 0

        def lost() -> float:
            nonlocal sent
            assert server.post(mixed(2_000, sent)) == (200, "")
            sent += 1
            name = "btfeed_tap_lost_records_total "
            return float(next(line for line in server.get("/metrics").splitlines() if line.startswith(name)).split()[1])

        until(lost, "its queue is full")
        assert len(server.delivered(2_000 * sent)) == 2_000 * sent
        assert server.status()["sinks"]["files"]["state"] == "running"
        stalled.settimeout(DEADLINE)
        seen = b""
        while b'\n{"lost":' not in seen:
            seen = seen[-20:] + stalled.recv(65_536)


@pytest.mark.slow
def test_only_a_few_readers_are_let_in(tmp_path: Path) -> None:
    """The next one gets a 503, and is let in when another is gone, whether it said goodbye or not."""
    with two_sinks(tmp_path) as server:
        sockets = [_connect(server) for _ in range(MAX_WATCHERS)]
        until(lambda: taps(server) == MAX_WATCHERS, "all are there")
        with _stalled(server) as refused:
            assert refused.recv(1_000).startswith(b"HTTP/1.1 503 ")
        assert 'btfeed_admin_refused_total{reason="taps"} 1.0' in server.get("/metrics")
        for each in sockets:
            each.close()
        until(lambda: taps(server) == 0, "they are gone, without a record in between")
        with _stalled(server):
            until(lambda: taps(server) == 1, "another one is there")


@pytest.mark.parametrize(
    ("query", "status"), [("sink=nope", 404), ("limit=x", 400), ("limit=-1", 400), ("limits=1", 400), ("limit=0", 200)]
)
def test_what_is_asked_for_is_checked(server: Server, query: str, status: int) -> None:
    """An unknown sink, a limit that is none, and a misspelled parameter."""
    with _stalled(server, query) as reader:
        assert reader.recv(1_000).startswith(b"HTTP/1.1 %d " % status)


def test_records_are_not_for_everyone(tmp_path: Path) -> None:
    """With a token, they need it."""
    with two_sinks(tmp_path, admin='token = "s3cret"') as server, _stalled(server) as reader:
        assert reader.recv(1_000).startswith(b"HTTP/1.1 401 ")


def _connect(server: Server, query: str = "") -> socket.socket:
    """A reader that has asked, and reads nothing."""
    url = urlsplit(server.admin_url)
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    reader.settimeout(DEADLINE)
    reader.connect((url.hostname, url.port))
    reader.sendall(f"GET /tap?{query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())
    return reader


@contextmanager
def _stalled(server: Server, query: str = "") -> Iterator[socket.socket]:
    reader = _connect(server, query)
    try:
        yield reader
    finally:
        reader.close()
