"""`btfeed serve` as a process on free ports, for tests that look at it from outside."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.support.forked import ForkedProcess
from tests.support.ports import free_port

T = TypeVar("T")
Process = subprocess.Popen[bytes] | ForkedProcess

BTFEED = [sys.executable, "-m", "btfeed"]
_UNINTERRUPTED = """
import signal, sys, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
from btfeed.commands.main import cli
cli(sys.argv[1:], prog_name="btfeed")
"""
UNINTERRUPTED = [sys.executable, "-c", _UNINTERRUPTED]
"""btfeed with a thread that takes all signals, so that none interrupts what the main thread waits for in the kernel: as if
each came just before that."""
DEADLINE = 30.0
"""Seconds to wait for something that should happen, before the test fails."""


def until(check: Callable[[], T | None], what: str, deadline: float = DEADLINE, every: float = 0.01) -> T:
    """Call `check` until it returns something true, and return that. every: seconds between two calls."""
    end = time.monotonic() + deadline
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what}")
        time.sleep(every)


async def until_async(check: Callable[[], T | None], what: str, deadline: float = DEADLINE) -> T:
    """`until` for tests inside an event loop. If it fails, it shows what every task waits for."""
    end = time.monotonic() + deadline
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            tasks = "\n".join(map(str, asyncio.all_tasks()))
            raise AssertionError(f"not within {deadline:g} s: {what}\n{tasks}")
        await asyncio.sleep(0.01)


def rounds(least: int, seen: Callable[[], bool], what: str) -> Iterator[int]:
    """0, 1 and so on: `least` numbers, and more until `seen` is true after one, at most 20 times as many.

    For rounds that each may or may not hit what they are for, such as a kill between an answer and its delivery.
    """
    for number in range(20 * least):
        if number >= least and seen():
            return
        yield number
    assert seen(), f"not in {20 * least} rounds: {what}"


def complete_lines(text: str) -> list[str]:
    """The lines of a text that somebody still writes, without the last one if it has no end yet."""
    return text.split("\n")[:-1]


def peak_memory(pid: int | str) -> int:
    """The most bytes of RSS that a process has had; "self" is this one. getrusage would count what it was forked from."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def freeze(pid: int, group: bool = False) -> None:
    """Send SIGSTOP, and wait until no thread runs: on a busy machine, some go on for a while. group: pid is a process
    group, and all of its processes are meant."""
    for process in _members(pid) if group else [pid]:
        os.kill(process, signal.SIGSTOP)
        until(partial(_is_stopped, process), f"process {process} stopped")


def _members(group: int) -> list[int]:
    processes = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    return [process for process in processes if _is_in(process, group)]


def _is_in(process: int, group: int) -> bool:
    try:
        return os.getpgid(process) == group
    except ProcessLookupError:
        return False


def _is_stopped(process: int) -> bool:
    for thread in Path(f"/proc/{process}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if thread.read_text().rpartition(")")[2].split()[0] != "T":
                return False
    return True


class Server:
    """`btfeed serve` with its configuration, journal and files in `directory`. By default it has one file sink.

    config: TOML of the sinks and other tables. receiver, admin, journal: lines of these tables. prefix: a command to run it
    under. program: a replacement for the command `btfeed`. options: of `serve`. environment: variables to add.
    """

    fork = False
    """Fork processes, see tests/support/forked.py, unless they have a prefix, another program or BTFEED_PLAIN, which btfeed
    reads when it is imported.
    """
    command = "serve"

    def __init__(
        self,
        directory: Path,
        config: str | None = None,
        *,
        receiver: str = "",
        admin: str = "",
        journal: str = "",
        prefix: Sequence[str] = (),
        program: Sequence[str] = BTFEED,
        options: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.files = directory / "files"
        self.config = directory / "btfeed.toml"
        self._command = [*prefix, *program]
        self._options = options
        self._environment = environment or {}
        directory.mkdir(parents=True, exist_ok=True)
        sinks = config if config is not None else f'[sinks.files]\ntype = "file"\ndirectory = "{self.files}"\n'
        self.config.write_text(
            f'[receiver]\nlisten = "127.0.0.1:0"\n{receiver}\n[admin]\nlisten = "127.0.0.1:0"\n{admin}\n'
            f'[journal]\ndirectory = "{directory / "journal"}"\n{journal}\n{sinks}'
        )
        self.process: Process | None = None

    def keep_ports(self) -> Self:
        """Let it listen on the same ports whenever it starts. To be called before the first start."""
        text = self.config.read_text()
        for _ in ("receiver", "admin"):
            text = text.replace('"127.0.0.1:0"', f'"127.0.0.1:{free_port()}"', 1)
        self.config.write_text(text)
        return self

    def start(self) -> Self:
        """Start, and return when it listens."""
        self._log_path = self.directory / f"log-{time.time_ns()}"
        self._log_path.touch()
        self.process = self._start([self.command, "-c", str(self.config), *self._options])
        listening = until(self._listening, "listening")
        self.port = listening.get("port", 0)  # a server that only delivers has none
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{listening['admin_port']}"
        return self

    def _start(self, arguments: list[str]) -> Process:
        environment = os.environ | self._environment
        if self.fork and self._command == BTFEED and "BTFEED_PLAIN" not in self._environment:
            return ForkedProcess(arguments, self._log_path, environment)
        with self._log_path.open("wb") as log:
            return subprocess.Popen(
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def stop(self) -> int:
        """Send SIGTERM, and return the exit status."""
        assert self.process
        if self.process.poll() is None:
            self._signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)

    def kill(self) -> None:
        """Send SIGKILL."""
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
        """The log lines that are JSON."""
        return [json.loads(line) for line in complete_lines(self.log()) if line.startswith("{")]

    def _listening(self) -> dict[str, Any] | None:
        assert self.process
        if self.process.poll() is not None:
            raise AssertionError(f"btfeed ended with {self.process.returncode}:\n{self.log()}")
        return next((event for event in self.events() if event.get("event") in ("listening", "delivering")), None)

    def post(self, body: bytes, path: str = "/", **headers: str) -> tuple[int, str]:
        """POST; returns status and text of the answer. Underscores in names of `headers` stand for hyphens."""
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
        """Every record in the NDJSON files, finished or open."""
        paths = sorted((directory or self.files).glob("*.ndjson*"))
        return [json.loads(line) for path in paths for line in complete_lines(path.read_text())]

    def delivered(self, records: int, directory: Path | None = None) -> list[dict[str, Any]]:
        """Wait until there are this many records, and return them."""
        until(lambda: len(self.records(directory)) >= records, f"{records} records")
        return self.records(directory)
