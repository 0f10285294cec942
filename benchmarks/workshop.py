"""What measurements share: a scratch directory, loads, and black holes that run already."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

from benchmarks.load import Load


class Workshop:
    """`with Workshop() as workshop`. Everything is removed at its end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._made: dict[Any, Any] = {}
        self._numbers = count(1)
        self._passing: list[Path] = []

    def __enter__(self) -> Self:
        self.scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="btfeed-bench-")))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def directory(self) -> Path:
        """A new directory, until `clear`."""
        made = self.scratch / f"{next(self._numbers):04}"
        made.mkdir()
        self._passing.append(made)
        return made

    def clear(self) -> None:
        """Remove what a measurement wrote, because all of them together would fill the disk."""
        while self._passing:
            shutil.rmtree(self._passing.pop(), ignore_errors=True)

    def load(self, size: int, occurrences: int, kind: str = "mixed") -> Path:
        """A file with this load, see Load.make. If size is 0, `kind` is the number of business transactions."""
        key = (size, occurrences, kind)
        if key not in self._made:
            made = Load.make(size, occurrences, kind) if size else Load.of_many(int(kind), occurrences)
            self._made[key] = made.save(self.scratch / f"posts-{size}-{occurrences}-{kind}.btposts")
        found: Path = self._made[key]
        return found

    def kept(self, name: str, opened: Callable[[], Any]) -> Any:
        """The value of the context manager that `opened` makes. It is entered once, and left at the end."""
        if name not in self._made:
            passing, self._passing = self._passing, []
            self._made[name] = self._stack.enter_context(opened())
            self._passing = passing  # `clear` leaves its directories
        return self._made[name]

    def black_hole(self, speaks: str) -> "Child":
        """A black hole that speaks this protocol, see black_hole.py. `said` is its address."""
        made: Child = self.kept(f"black hole {speaks}", lambda: child("benchmarks.black_hole", speaks))
        return made


class Child:
    """A module that runs as a process and takes commands line by line. said: its first line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid
        self.said = self.read()

    def read(self) -> str:
        """Its next line."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return line.strip()

    def ask(self, line: str) -> str:
        """Its answer to `line`."""
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.read()


@contextmanager
def child(module: str, *arguments: object) -> Iterator[Child]:
    """Start a module, and wait for its first line. It ends when its standard input does."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Child(process)
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(30)
