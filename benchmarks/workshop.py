"""What measurements share: a scratch directory, posts that were made once, black holes that are up already."""

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
    """`with Workshop() as workshop`. All is gone at its end."""

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
        """A new one, until `clear`."""
        made = self.scratch / f"{next(self._numbers):04}"
        made.mkdir()
        self._passing.append(made)
        return made

    def clear(self) -> None:
        """Remove what one measurement has written: all of them together would fill the disk."""
        while self._passing:
            shutil.rmtree(self._passing.pop(), ignore_errors=True)

    def load(self, size: int, occurrences: int, kind: str = "mixed") -> Path:
        """The file that holds this load: see Load.make; size 0 stands for posts of `kind` business transactions."""
        key = (size, occurrences, kind)
        if key not in self._made:
            made = Load.make(size, occurrences, kind) if size else Load.of_many(int(kind), occurrences)
            self._made[key] = made.save(self.scratch / f"posts-{size}-{occurrences}-{kind}.btposts")
        found: Path = self._made[key]
        return found

    def kept(self, name: str, opened: Callable[[], Any]) -> Any:
        """What the context manager that `opened` gives enters; it is entered once, and left at the end."""
        if name not in self._made:
            passing, self._passing = self._passing, []
            self._made[name] = self._stack.enter_context(opened())
            self._passing = passing  # its directories stay
        return self._made[name]

    def black_hole(self, speaks: str) -> "Child":
        """One that speaks this language of benchmarks/black_hole.py; its address is what it says first."""
        made: Child = self.kept(f"black hole {speaks}", lambda: child("benchmarks.black_hole", speaks))
        return made


class Child:
    """A module of ours that runs as a process of its own and is told what to do line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid
        self.said = self.read()

    def read(self) -> str:
        """The next line that it prints."""
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
    """It has printed its first line, and ends when its standard input does."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Child(process)
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(30)
