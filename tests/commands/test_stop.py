"""Signals end replay and generate at once, whatever they are doing, and leave whole files."""

import base64
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from btfeed.posts import files as postfile
from btfeed.posts import post
from btfeed.telemetry.wording import count
from tests.servers.echo import EchoServer
from tests.support import posts
from tests.support.harness import BTFEED, UNINTERRUPTED, until
from tests.traffic.test_replay_sources import BODIES, write

pytestmark = pytest.mark.slow

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
NOT_SENT = "stopped by a signal: the remaining posts were not sent\n"
DATA = 2**16
"""Bytes in the output after which a test sends the signal."""


def start(*arguments: object, btfeed: Sequence[str] = BTFEED) -> "subprocess.Popen[bytes]":
    """The command, with pipes."""
    command = [*btfeed, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def stop(process: "subprocess.Popen[bytes]", number: int) -> tuple[int, str, str]:
    """Send the signal while standard input stays open. Exit status, stdout, stderr."""
    process.send_signal(number)
    until(lambda: process.poll() is not None, "the command ends")
    out, err = process.communicate()
    return process.returncode, out.decode(), err.decode()


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@SIGNALS
@pytest.mark.parametrize("name", ["b.btposts", "b.btposts.gz"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "a.btposts", "--loop", 0],
        ["generate", "web-shop", "--flows", 10**9],
        ["generate", "web-shop", "--rate", 10**5],
    ],
)
def test_a_file_is_whole_after_a_signal(
    arguments: Sequence[object], name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every post is complete, and gzip data has its end. The summary counts what was written. Live posts have no rest."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.btposts", [posts.mixed(1_000)])
    process = start(*arguments, "--out", name)
    until(lambda: size(tmp_path / name) > DATA, "posts are written")
    status, out, err = stop(process, number)
    bodies = list(postfile.read(tmp_path / name))
    assert out.startswith(f"{count(len(bodies), 'post')} written to {name} (")
    assert (status, err) == ((0, "") if "--rate" in arguments else (1, NOT_SENT))
    for body in bodies:
        post.parse(body)


@SIGNALS
@pytest.mark.parametrize("btfeed", [BTFEED, UNINTERRUPTED], ids=["during a read", "before a read"])
def test_a_replay_that_waits_for_standard_input_ends(btfeed: list[str], number: int, tmp_path: Path) -> None:
    """What arrived is written."""
    data = write(tmp_path / "a.btposts").read_bytes()
    process = start("replay", "-", "--out", tmp_path / "b.btposts", "--rate", "1000", btfeed=btfeed)
    assert process.stdin
    process.stdin.write(data)
    process.stdin.flush()
    until(lambda: size(tmp_path / "b.btposts") == len(data), "the posts are written")
    status, out, err = stop(process, number)
    assert (status, err) == (1, NOT_SENT)
    assert out.startswith("3 posts written to ")
    assert list(postfile.read(tmp_path / "b.btposts")) == BODIES


@SIGNALS
def test_a_replay_to_a_url_that_waits_for_standard_input_ends(number: int, tmp_path: Path) -> None:
    """The outcomes of the posts that arrived are counted, and what was refused is written."""
    with EchoServer() as server:
        process = start("replay", "-", server.url, "--rejects", tmp_path / "r.ndjson")
        assert process.stdin
        process.stdin.write(write(tmp_path / "a.btposts").read_bytes())
        process.stdin.flush()
        until(lambda: server.requests == len(BODIES), "the posts are sent")
        status, out, err = stop(process, number)
    assert (status, err) == (1, NOT_SENT)
    assert out.startswith("0 of 3 posts accepted ")
    rejects = map(json.loads, (tmp_path / "r.ndjson").read_text().splitlines())
    assert [base64.b64decode(reject["body"]) for reject in rejects] == BODIES


@SIGNALS
@pytest.mark.parametrize("option", [["--shift-to-now"], []])
def test_a_signal_before_the_first_post_leaves_no_file(option: list[str], number: int, tmp_path: Path) -> None:
    """--shift-to-now reads everything first."""
    process = start("replay", "-", *option, "--out", tmp_path / "b.btposts")
    assert process.stdin
    if option:
        process.stdin.write(write(tmp_path / "a.btposts").read_bytes())
        process.stdin.flush()
    waiting = Path(f"/proc/{process.pid}/status")
    until(lambda: _handles(waiting.read_text(), number), "the signal is handled")
    assert stop(process, number) == (1, "", "stopped by a signal before the first post\n")
    assert not (tmp_path / "b.btposts").exists()


@SIGNALS
@pytest.mark.parametrize("arguments", [["replay", "a.btposts"], ["generate", "web-shop", "--flows", 1]])
def test_a_named_pipe_without_a_reader_is_not_waited_for(
    arguments: Sequence[object], number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening it blocks until there is a reader."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.btposts")
    os.mkfifo("b.btposts")
    process = start(*arguments, "--out", "b.btposts")
    waits = Path(f"/proc/{process.pid}/wchan")
    until(lambda: waits.read_text() in ("wait_for_partner", "fifo_open"), "it waits for a reader")
    assert stop(process, number) == (1, "", "stopped by a signal before the outputs were open\n")


def _handles(status: str, number: int) -> bool:
    """Whether the process has handlers for both signals. Python itself has one for SIGINT."""
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1) and bool(caught >> (number - 1) & 1)
