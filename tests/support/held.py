"""btfeed with listening sockets that another process holds, so that it can be restarted without refusing a connection."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests.support.harness import BTFEED, DEADLINE, Server, until

ROOT = str(Path(__file__).parents[2])
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Starts a program as systemd does for a socket unit: the socket is file descriptor 3."""


def installed(path: Path) -> Path:
    """A command as pip installs it, which runs the btfeed of this environment."""
    path.write_text(f"#!{sys.executable}\nimport sys\nsys.path[0] = {ROOT!r}\nfrom btfeed.__main__ import main\nmain()\n")
    path.chmod(0o755)
    return path


@contextmanager
def keeping(directory: Path, name: str, held: socket.socket) -> Iterator[int]:
    """A process that looks like "systemd" or the "supervisor", and holds a socket for a server that it starts. Its pid."""
    command = [sys.executable, "-c", "input()", "-m", "btfeed.supervisor"]
    if name == "systemd":
        (directory / name).symlink_to(shutil.which("cat") or "cat")
        command = [str(directory / name)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[held.fileno()])
    try:
        yield process.pid
    finally:
        process.communicate(b"\n", timeout=DEADLINE)


class HeldServer(Server):
    """restart: end the server and start it again; returns when it has begun. pids: of all servers so far that listened."""

    def restart(self) -> None:
        raise NotImplementedError

    @property
    def pids(self) -> list[int]:
        raise NotImplementedError

    def listening_again(self, servers: int) -> None:
        """Wait until so many servers have listened, and each was another process."""
        until(lambda: len(self.pids) >= servers, f"{servers} servers have listened")
        assert len(set(self.pids)) == len(self.pids)


class SupervisedServer(HeldServer):
    """`btfeed serve --supervise`. `pid` is the supervisor's."""

    def __init__(self, directory: Path, *arguments: Any, command: Path | None = None, **options: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        program = [str(command or installed(directory / "btfeed"))]  # not forked: the supervisor starts a command
        super().__init__(directory, *arguments, program=program, options=["--supervise"], **options)

    def restart(self) -> None:
        os.kill(self.pid, signal.SIGUSR2)

    @property
    def pids(self) -> list[int]:
        found, pid = [], 0
        for event in self.events():
            if event["event"] == "server started":
                pid = event["pid"]
            elif event["event"] == "listening":
                found.append(pid)
        return found

    def stop(self) -> int:
        """Only the supervisor gets the signal."""
        assert self.process
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(DEADLINE)


class ActivatedServer(HeldServer):
    """`btfeed serve` with a receiver's socket that this process holds, as systemd does."""

    def __init__(self, directory: Path, *arguments: Any, **options: Any) -> None:
        super().__init__(directory, *arguments, **options)
        self.held = socket.create_server(("127.0.0.1", 0))
        self._pids: list[int] = []

    def _start(self, arguments: list[str]) -> "subprocess.Popen[bytes]":
        descriptor = self.held.fileno()
        with self._log_path.open("wb") as log:
            command = [sys.executable, "-c", ACTIVATE, str(descriptor), *BTFEED, *arguments]
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[descriptor], start_new_session=True
            )

    def start(self) -> Self:
        super().start()
        self._pids.append(self.pid)
        return self

    def restart(self) -> None:
        assert self.stop() == 0
        self.start()

    @property
    def pids(self) -> list[int]:
        return list(self._pids)

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.held.close()
