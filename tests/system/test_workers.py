"""`btfeed receive --workers`: several processes on one port, under one supervisor, while a client posts that sends nothing
twice. Kafka is away, so every post that was answered 200 is in a worker's spill."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import BTFEED, DEADLINE, freeze, until_async
from tests.support.never_retries import RATE, Client
from tests.support.workers import CONFIG, WorkersServer

BETWEEN = RATE // 4
"""Posts from one event to the next."""


async def started(server: WorkersServer, processes: int) -> None:
    def begun() -> bool:
        return len([event for event in server.events() if event["event"] == "server started"]) >= processes

    await until_async(begun, f"{processes} processes started")


async def all_ready(server: WorkersServer) -> None:
    """Every worker answers, in a process that the supervisor has started last."""

    def ready() -> bool:
        try:
            shown = server.status()["workers"]
        except OSError:  # the process that answers is being started again
            return False
        return all(each is not None and each["ready"] for each in shown.values())

    for _ in range(3000):
        if await asyncio.to_thread(ready):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(server.log())


def posts_of_workers(server: WorkersServer) -> dict[str, int]:
    shown: dict[str, Any] = server.status()["workers"]
    return {number: each["posts"] for number, each in shown.items()}


@pytest.mark.slow
async def test_workers_that_are_killed_and_restarted_cost_what_they_were_serving(tmp_path: Path) -> None:
    """kill -9 of a worker: no connection is refused, and only posts on connections that it had accepted fail. A restart of
    all by SIGUSR2, a reload, and kill -9 of the process that answers for them cost nothing."""
    server = WorkersServer(tmp_path / "server").start()
    try:
        client = Client(server.port, seed=4)
        async with client.posting():
            await client.more_posts(BETWEEN)
            posts = await asyncio.to_thread(posts_of_workers, server)
            assert min(posts.values()) > 0  # the kernel gives connections to both
            pid = server.pids()["2/2"]
            await asyncio.to_thread(freeze, pid)
            accepts_nothing, opened = time.monotonic(), client.opened
            await until_async(lambda: client.opened >= opened + 10, "connections that wait")
            server.kill_worker(2)
            await started(server, 4)
            await all_ready(server)
            await until_async(lambda: all(post.began > accepts_nothing + 1 for post in client.open), "what waited is done")
            killed = list(client.failures)
            assert killed
            assert not any(isinstance(post.failure, ConnectionRefusedError) for post in killed)
            assert not [post for post in killed if not post.kept and post.began > accepts_nothing]
            server.kill_worker(0)
            await client.more_posts(BETWEEN)
            await started(server, 5)
            await all_ready(server)
            os.kill(server.pid, signal.SIGHUP)
            await until_async(lambda: reloads(server) == 2, "reloaded")
            os.kill(server.pid, signal.SIGUSR2)
            await started(server, 8)
            await until_async(lambda: len(server.listened()) >= 5, "other workers listen")
            await client.more_posts(BETWEEN)
            await all_ready(server)
        assert client.failures == killed
        directory = private_directory(server)
        assert server.stop() == 0
        assert not directory.exists()
    finally:
        server.kill()
    spilled = server.spilled()
    assert spilled.keys() == {"worker-1", "worker-2"}
    assert set(client.answered) <= {body for bodies in spilled.values() for body in bodies}


def reloads(server: WorkersServer) -> int:
    return len([event for event in server.events() if event["event"] == "configuration reloaded"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkersServer]:
    """Two workers."""
    with WorkersServer(tmp_path_factory.mktemp("workers")) as server:
        yield server


@pytest.mark.slow
def test_workers_answer_as_one_server(running: WorkersServer) -> None:
    """/readyz, /metrics and /status of both, and the log says which worker wrote a line."""
    assert running.get("/readyz").startswith("worker 1: ready\nworker 2: ready\n")
    assert {event["worker"] for event in running.listened()} == {"1/2", "2/2"} < running.pids().keys()
    assert not any("admin_port" in event for event in running.listened())  # the process that answers for them has it
    assert private_directory(running).stat().st_mode & 0o777 == 0o700
    text = running.get("/metrics")
    assert 'btfeed_ready{worker="1"} 1.0' in text
    assert 'btfeed_ready{worker="2"} 1.0' in text
    status = subprocess.run(
        [*BTFEED, "status", "-c", str(running.config)], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (status.returncode, status.stderr) == (0, "")
    assert "workers: 2 of 2 ready" in status.stdout


def private_directory(server: WorkersServer) -> Path:
    return Path(server.listened()[0]["admin_socket"]).parent


@pytest.mark.slow
def test_the_port_of_another_server_is_not_shared(tmp_path: Path, running: WorkersServer) -> None:
    """SO_REUSEPORT would let a second one take half of the posts. It is refused, and leaves nothing behind."""
    path = tmp_path / "other.toml"
    path.write_text(CONFIG.format(port=running.port, admin=0, workers=2, directory=tmp_path))
    done = subprocess.run(
        [*BTFEED, "receive", "-c", str(path)], capture_output=True, text=True, timeout=DEADLINE, check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert f"receiver.listen: can't listen on 127.0.0.1:{running.port}: process {running.pid} " in done.stderr
    assert not list(tmp_path.glob("btfeed-workers-*"))


@pytest.mark.slow
def test_workers_share_a_socket_that_systemd_holds(tmp_path: Path) -> None:
    """Each of them accepts from it."""
    held = socket.create_server(("127.0.0.1", 0))
    with WorkersServer(tmp_path / "server", held=held) as server:
        assert server.port == held.getsockname()[1]
        lines = [event for event in server.events() if event["event"] == "using an inherited socket"]
        assert {line.get("worker") for line in lines} >= {"1/2", "2/2"}
        assert server.post(b"no post")[0] == 400
    held.close()


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "number"), [([], 2), (["--workers", "2"], 1)])
def test_workers_need_a_journal_that_they_can_share(tmp_path: Path, arguments: list[str], number: int) -> None:
    """With SQLite, several are refused, and the message says why."""
    path = tmp_path / "btfeed.toml"
    path.write_text(f"[receiver]\nworkers = {number}\n")
    done = subprocess.run(
        [sys.executable, "-m", "btfeed", "receive", "-c", str(path), *arguments],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "one process" in done.stderr
    assert 'journal.type = "kafka"' in done.stderr
