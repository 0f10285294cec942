"""`btfeed receive --workers`, which spills all posts: its Kafka is never there."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from btfeed.journal.base import Entry
from btfeed.journal.sqlite.archive import SqliteArchive
from tests.support.harness import Process, Server, until
from tests.support.held import ACTIVATE, installed
from tests.support.ports import free_port

CONFIG = """
[receiver]
listen = "127.0.0.1:{port}"
workers = {workers}
[admin]
listen = "127.0.0.1:{admin}"
[journal]
type = "kafka"
bootstrap_servers = "127.0.0.1:1"
timeout = "100ms"
spill = {{ directory = "{directory}/spill" }}
"""


class WorkersServer(Server):
    """`pid` is the supervisor's. held: a socket of the receiver that somebody else holds, as systemd does."""

    def __init__(self, directory: Path, workers: int = 2, held: socket.socket | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory, program=[str(installed(directory / "btfeed"))])
        self.workers = workers
        self._held = held
        port = held.getsockname()[1] if held else free_port()
        self._admin = free_port()
        self.config.write_text(CONFIG.format(port=port, admin=self._admin, workers=workers, directory=directory))

    def _start(self, arguments: list[str]) -> Process:
        command = [*self._command, "receive", *arguments[1:]]
        held = self._held.fileno() if self._held else None
        with self._log_path.open("wb") as log:
            return subprocess.Popen(
                command if held is None else [sys.executable, "-c", ACTIVATE, str(held), *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=[] if held is None else [held],
            )  # fmt: skip

    def _listening(self) -> dict[str, Any] | None:
        found = super()._listening()
        ready = len(self.pids()) == self.workers + 1 and len(self.listened()) >= self.workers
        return {**found, "admin_port": self._admin} if found and ready and self._answers() else None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._admin)) == 0

    def listened(self) -> list[dict[str, Any]]:
        """The log lines of workers that begin to receive."""
        return [event for event in self.events() if event["event"] == "listening"]

    def pids(self) -> dict[str, int]:
        """The newest process of each worker. "0/N" is the one that answers for all."""
        return {event["worker"]: event["pid"] for event in self.events() if event["event"] == "server started"}

    def kill_worker(self, number: int) -> None:
        os.kill(self.pids()[f"{number}/{self.workers}"], signal.SIGKILL)

    def stop(self) -> int:
        """Only the supervisor gets the signal."""
        assert self.process
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """Of all processes: the others end when the supervisor is gone."""
        pids = self.pids().values()
        super().kill()
        until(lambda: not any(Path("/proc", str(pid)).exists() for pid in pids), "ended")

    def spilled(self) -> dict[str, list[bytes]]:
        """By worker's directory, the posts in its spill. When it is stopped."""
        directories = sorted((self.directory / "spill").iterdir())
        archives = {each.name: SqliteArchive(each).entries() for each in directories}
        return {name: [each.post.body for each in rows if isinstance(each, Entry)] for name, rows in archives.items()}
