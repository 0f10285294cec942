"""A supervisor that runs a small program in place of a server."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.harness import DEADLINE, complete_lines, until

TELL = """
import os, signal, socket, sys, time
def tell(text):
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.sendto(text.encode(), "\\0" + os.environ["NOTIFY_SOCKET"][1:])
def note(text):
    with open("notes", "a") as notes:
        notes.write(f"{text}\\n")
def take_over():
    if gate := os.environ.get("BTFEED_TAKE_OVER"):
        tell("X_BTFEED_PREPARED=1")
        assert os.read(int(gate), 1) == b""
def until_term(then=lambda: None):
    signal.signal(signal.SIGTERM, lambda *_: (then(), note("stopped"), sys.exit(0)))
def idle():
    while True:
        time.sleep(0.01)  # a signal that comes just before a sleep does not end it
def serve():
    until_term()
    note("up")
    tell("READY=1")
    idle()
signal.signal(signal.SIGHUP, lambda *_: note("reloaded"))
"""
SUBREAPER = """
import ctypes, os, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a program to which orphans are given, as to PID 1."""


class Supervised:
    """A supervisor that runs `program`, in `directory`. manager: it has a service manager, whose messages are `told`."""

    def __init__(
        self, directory: Path, program: str, *, manager: bool = False, watchdog: float = 0.0, prefix: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(directory / "manager"))
        self.manager.setblocking(False)
        self.told: list[str] = []
        script = directory / "server.py"
        script.write_text(TELL + textwrap.dedent(program))
        environment = os.environ | ({"NOTIFY_SOCKET": str(directory / "manager")} if manager else {})
        environment |= {"WATCHDOG_USEC": str(int(watchdog * 1e6))} if watchdog else {}
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-P", "-m", "btfeed.supervisor", sys.executable, str(script)],
                cwd=directory, env=environment, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True,
            )  # fmt: skip

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        self.manager.close()

    def events(self, event: str) -> list[dict[str, Any]]:
        text = (self.directory / "log").read_text()
        lines = [json.loads(line) for line in complete_lines(text) if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def notes(self) -> list[str]:
        path = self.directory / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def noted(self, *expected: str) -> None:
        try:
            until(lambda: self.notes() == list(expected), "noted")
        except AssertionError:
            assert self.notes() == list(expected), (self.directory / "log").read_text()

    def started(self, servers: int) -> int:
        """Wait for so many; returns the pid of the last."""
        until(lambda: len(self.events("server started")) >= servers, f"{servers} servers started")
        pids = [event["pid"] for event in self.events("server started")]
        assert len(set(pids)) == len(pids)
        return int(pids[-1])

    def children(self) -> list[int]:
        """Those of the supervisor, zombies included."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def hears(self, message: str) -> None:
        """Wait until the service manager is told this."""

        def heard() -> bool:
            try:
                while True:
                    self.told.append(self.manager.recv(4096).decode())
            except BlockingIOError:
                return message in self.told

        until(heard, f"{message!r}; told: {self.told}")


@contextmanager
def starting(directory: Path) -> Iterator[Callable[..., Supervised]]:
    """A function that starts supervisors in `directory`, each with its program. They end with the block."""
    running: list[Supervised] = []

    def start(program: str, **options: Any) -> Supervised:
        running.append(Supervised(directory, program, **options))
        return running[-1]

    try:
        yield start
    finally:
        for each in running:
            each.end()
