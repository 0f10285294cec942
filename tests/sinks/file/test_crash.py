"""The file sink crashes between any two steps, and opens again with the last saved state: each record is there once.

`Model` plays the journal: it saves the state with the cursor after a write, or crashes before it does, and then hands out
the same records again.
"""

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.base import Unavailable
from sinks.batch import Batch
from sinks.file import FileSink
from tests.sinks.drivers.file import FORMATS, canonical, file_sink, read_records
from tests.support.clock import FakeClock
from tests.support.fakes import mapped
from tests.support.strategies import examples

STEPS = ("open", "pwritev", "fdatasync", "fsync", "ftruncate", "rename", "unlink", "mkdir", "fchmod", "chmod")
"""Everything of the system that the sink changes anything with."""
RECORDS = mapped(60)


@pytest.fixture(autouse=True, scope="module")
def always_with_room() -> Iterator[None]:
    """A batch takes room on the disk first, as large ones do."""
    with mock.patch("sinks.file.room.LEAST", 0):
        yield


class Crash(BaseException):
    """The process is gone: nothing catches this."""


class Disk:
    """Counts the sink's calls, and fails at number `at`: before the call, in the middle of a write, or after the call."""

    def __init__(self, at: int, when: str, error: BaseException) -> None:
        self.at = at
        self.when = when
        self.error = error
        self.done = 0
        self.failed = False

    def step(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            if not threading.current_thread().name.startswith("sink-"):
                return real(*arguments, **named)
            self.done += 1
            if self.done != self.at:
                return real(*arguments, **named)
            self.failed = True
            if self.when == "middle" and name == "pwritev":
                descriptor, parts, offset = arguments
                data = b"".join(parts)
                real(descriptor, [data[: len(data) // 2]], offset)
            elif self.when == "after":
                real(*arguments, **named)
            raise self.error

        return run

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name in STEPS:
                stack.enter_context(mock.patch.object(os, name, self.step(name, getattr(os, name))))
            yield


class Model:
    """A journal and its delivery loop, with file sinks in one directory."""

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        self.directory = directory / "files"
        self.settings: dict[str, Any] = {"rotate_size": "3KiB"} | settings
        self.state: str | None = None
        self.cursor = 0  # records before it are delivered
        self.written = 0  # records before it were written since the start
        self.tried = 0  # records before it were written at least once, as far as that succeeded
        self.clock = FakeClock()
        self.finished: dict[str, bytes] = {}
        self.sink: FileSink | None = None
        self.opened = False

    async def write(self, records: int, save: bool = True) -> None:
        """Open the sink if necessary, and write records. save: whether the journal saves the state now."""
        self.sink = self.sink or file_sink(self.directory, self.settings, clock=self.clock)
        if not self.opened:
            await self.sink.open(self.state)
            self._save((await self.sink.write(Batch())).state)
            self.opened = True
        batch = RECORDS.slice(self.written, self.written + records)
        self.tried = max(self.tried, self.written + len(batch))
        result = await self.sink.write(batch)
        assert not result.flagged
        assert not result.refused
        self.written += len(batch)
        if save:
            self._save(result.state)

    def _save(self, state: str | None) -> None:
        assert self.sink
        assert state is not None
        self.state = state
        self.cursor = self.written
        self.sink.saved(state)

    async def restart(self) -> None:
        if self.sink:
            await self.sink.close()
            self.sink, self.opened = None, False
        self.written = self.cursor

    async def again(self) -> None:
        """Write what was written and not saved, as the journal does soon after a start."""
        if self.tried > self.cursor:
            await self.restart()
            await self.write(1)
            await self.restart()
            await self.write(self.tried - self.cursor)

    async def check(self) -> None:
        """After a restart, and when the journal has handed out again what was not saved, the files hold the records before
        the cursor, and finished files are unchanged."""
        await self.restart()
        await self.write(0)
        await self.again()
        found = [canonical(record) for path in sorted(self.directory.iterdir()) for record in read_records(path)]
        assert sorted(found) == sorted(canonical(body) for body in RECORDS.slice(0, self.cursor).bodies)
        now = {path.name: path.read_bytes() for path in self.directory.iterdir() if not path.name.endswith(".open")}
        assert now.items() >= self.finished.items()
        self.finished = now
        await self.restart()


async def script(model: Model) -> None:
    """Start, continue, rotate by size and by time, restart, and lose what was not saved."""
    for records in (3, 0, 4, 2):
        await model.write(records)
    await model.again()
    model.clock.now += 4000
    await model.write(0)
    await model.write(2)
    await model.write(4, save=False)
    await model.write(2)
    await model.write(3, save=False)
    await model.restart()
    await model.write(5)
    await model.restart()
    await model.write(2)


def steps_of_the_script(settings: dict[str, Any]) -> int:
    with tempfile.TemporaryDirectory() as directory:
        disk = Disk(-1, "before", Crash())
        with disk():
            asyncio.run(script(Model(Path(directory), settings)))
    return disk.done


CASES = [
    ("ndjson", "before"),
    ("ndjson", "middle"),
    ("ndjson", "after"),
    ("ndjson-gzip", "middle"),
    ("avro-deflate", "middle"),
]


@pytest.mark.parametrize(("format", "when"), CASES)
def test_a_crash_at_any_step_loses_and_doubles_nothing(tmp_path: Path, quick: bool, format: str, when: str) -> None:
    """Before, in the middle of, and after every single call that changes the disk."""

    async def crash(at: int) -> None:
        model = Model(tmp_path / str(at), FORMATS[format])
        disk = Disk(at, when, Crash())
        with disk(), pytest.raises(Crash):
            await script(model)
        assert disk.failed
        await model.check()
        await model.write(4)
        await model.check()

    steps = steps_of_the_script(FORMATS[format])
    assert steps > 30
    for at in range(1, steps + 1, 4 if quick else 1):
        asyncio.run(crash(at))


@pytest.mark.parametrize(("format", "when"), CASES)
def test_an_error_at_any_step_is_tried_again(tmp_path: Path, quick: bool, format: str, when: str) -> None:
    """Any failing call makes the sink Unavailable, and writing again does what is left to do."""

    async def fail(at: int) -> None:
        model = Model(tmp_path / str(at), FORMATS[format])
        disk = Disk(at, when, OSError(5, "Input/output error"))
        write, tries = model.write, 0

        async def stubborn(records: int, save: bool = True) -> None:
            nonlocal tries
            try:
                await write(records, save)
            except Unavailable:
                tries += 1
                await write(records, save)

        model.write = stubborn  # type: ignore[method-assign]
        with disk():
            await script(model)
        assert disk.failed
        assert tries <= 1
        await model.check()

    for at in range(1, steps_of_the_script(FORMATS[format]) + 1, 4 if quick else 1):
        asyncio.run(fail(at))


WRITE = st.tuples(st.just("write"), st.integers(0, 6), st.booleans())
CRASH = st.tuples(st.just("crash"), st.integers(1, 14), st.sampled_from(["before", "middle", "after"]))
OTHER = st.sampled_from([("restart",), ("later",), ("format",), ("check",)])


@settings(max_examples=examples(120))
@given(actions=st.lists(WRITE | CRASH | OTHER, max_size=25), format=st.sampled_from(sorted(FORMATS)))
def test_any_sequence_of_writes_crashes_and_restarts(actions: list[tuple[Any, ...]], format: str) -> None:
    """In any order, and while the settings change, the files hold exactly what was saved."""

    async def run(directory: Path) -> None:
        model = Model(directory, FORMATS[format])
        for action, *how in actions:
            if action == "write":
                await model.write(*how)
                if not how[1]:
                    await model.restart()
            elif action == "crash":
                disk = Disk(how[0], how[1], Crash())
                with disk():
                    await crashing(model)
                await model.restart()
            elif action == "later":
                await model.again()
                model.clock.now += 2000
            elif action == "format":
                await model.restart()
                model.settings |= FORMATS["ndjson-gzip" if model.settings["format"] == "avro" else "avro-deflate"]
            else:
                await (model.check() if action == "check" else model.restart())
        await model.check()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


async def crashing(model: Model) -> None:
    """Write to a disk that may fail. A crash after the write comes before its state is saved."""
    with suppress(Crash):
        await model.write(3, save=False)
