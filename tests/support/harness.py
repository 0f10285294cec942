"""btfeed as a process of its own on free ports, for tests that look at it from outside."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

BTFEED = [sys.executable, "-m", "btfeed.commands.main"]
DEADLINE = 30.0
"""Seconds after which something that should have happened is taken not to happen. Passing tests never wait so long."""


def until(check: Callable[[], T | None], what: str, deadline: float = DEADLINE) -> T:
    """Ask again until `check` gives something true."""
    end = time.monotonic() + deadline
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"in {deadline:g} s not: {what}")
        time.sleep(0.01)


async def until_async(check: Callable[[], T | None], what: str, deadline: float = DEADLINE) -> T:
    """`until` for tests inside an event loop. Where it fails, it tells what every task waits for."""
    end = time.monotonic() + deadline
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            tasks = "\n".join(map(str, asyncio.all_tasks()))
            raise AssertionError(f"in {deadline:g} s not: {what}\n{tasks}")
        await asyncio.sleep(0.01)


def peak_memory(pid: int | str) -> int:
    """Bytes of RSS that a process has had at most; "self" is this one. getrusage would count what it was forked from."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


class Server:
    """`btfeed serve` with a configuration of its own under `directory`: one file sink, unless `config` says otherwise.

    config: further TOML; [receiver] and [admin] take `receiver` and `admin` lines instead. prefix: a command to run it
    under, such as strace. program: what to run in the place of the command line.
    """

    def __init__(
        self,
        directory: Path,
        config: str | None = None,
        *,
        receiver: str = "",
        journal: str = "",
        prefix: Sequence[str] = (),
        program: Sequence[str] = BTFEED,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.files = directory / "files"
        self.config = directory / "btfeed.toml"
        self._command = [*prefix, *program]
        self._environment = environment or {}
        directory.mkdir(parents=True, exist_ok=True)
        sinks = config if config is not None else f'[sinks.files]\ntype = "file"\ndirectory = "{self.files}"\n'
        self.config.write_text(
            f'[receiver]\nlisten = "127.0.0.1:0"\n{receiver}\n[admin]\nlisten = "127.0.0.1:0"\n'
            f'[journal]\ndirectory = "{directory / "journal"}"\n{journal}\n{sinks}'
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        """Start, and return when it listens."""
        self._log_path = self.directory / f"log-{time.time_ns()}"
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*self._command, "serve", "-c", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._environment,
                start_new_session=True,
            )
        listening = until(self._listening, "listening")
        self.url = f"http://127.0.0.1:{listening['port']}"
        self.admin_url = f"http://127.0.0.1:{listening['admin_port']}"
        self.port = listening["port"]
        return self

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process
        if self.process.poll() is None:
            self._signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)

    def kill(self) -> None:
        """SIGKILL, without warning."""
        assert self.process
        if self.process.poll() is None:
            self._signal(signal.SIGKILL)
        self.process.wait(DEADLINE)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process
        os.killpg(self.process.pid, number)

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """Log lines that are JSON."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{") and line.endswith("}")]

    def _listening(self) -> dict[str, Any] | None:
        assert self.process
        if self.process.poll() is not None:
            raise AssertionError(f"btfeed ended with {self.process.returncode}:\n{self.log()}")
        return next((event for event in self.events() if event.get("event") == "listening"), None)

    def post(self, body: bytes, path: str = "/", **headers: str) -> tuple[int, str]:
        """POST; the status and the text of the answer. Underscores in names of `headers` stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/octet-stream"} | named)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def get(self, path: str) -> str:
        """GET from the admin listener."""
        with urllib.request.urlopen(self.admin_url + path, timeout=DEADLINE) as answer:
            text: str = answer.read().decode()
            return text

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.get("/status"))
        return status

    def records(self, directory: Path | None = None) -> list[dict[str, Any]]:
        """Every record in the NDJSON files, finished and open ones."""
        paths = sorted((directory or self.files).glob("*.ndjson*"))
        return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]

    def delivered(self, records: int, directory: Path | None = None) -> list[dict[str, Any]]:
        """The records, when there are so many."""
        until(lambda: len(self.records(directory)) >= records, f"{records} records")
        return self.records(directory)
