"""A witness of what this machine let a process do: `python -m tests.support.witness FILE`.

A test that promises "within two seconds" on a machine that it shares with brokers would measure these brokers. So a
process beside it does, again and again, what the slowest answer needs besides waiting: it sleeps for PERIOD, computes for
WORK, and syncs a few bytes to the disk. Each time it notes how much longer that took than it should have. A post that
waited while the witness was held up may take that much longer, and no more.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.support.harness import DEADLINE, complete_lines, until

PERIOD = 0.05
WORK = 0.002
"""Seconds of CPU in each step: more than a post costs client, balancer and receiver."""
UNNOTED = 0.02
"""Seconds that a step may take longer and count as undisturbed: an ordinary sync of a disk."""


class Witness:
    """Runs until the block ends. directory: for its notes and the file that it syncs."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._notes = directory / "notes"

    def __enter__(self) -> Self:
        with self._notes.open("wb") as notes:
            command = [sys.executable, "-m", "tests.support.witness", str(self._notes.with_name("synced"))]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=notes)
        until(self._steps, "the witness at work")
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait(DEADLINE)

    def held_up(self, begin: float, end: float) -> float:
        """Seconds for which it was held up in the steps that lie, also in part, between these times of time.monotonic."""
        return sum(late for begun, ended, late in self._steps() if begun < end and ended > begin)

    def _steps(self) -> list[tuple[float, float, float]]:
        """When each step began and ended, and how late it was."""
        found = []
        for line in complete_lines(self._notes.read_text()):
            begin, end = map(float, line.split())
            late = end - begin - PERIOD - WORK
            found.append((begin, end, late if late > UNNOTED else 0.0))
        return found


def main(path: Path) -> None:
    """Work until killed. Prints when each step began and ended, by time.monotonic."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    while True:
        begin = time.monotonic()
        time.sleep(PERIOD)
        spent = time.thread_time()
        while time.thread_time() - spent < WORK:
            pass
        os.pwrite(file, b"x" * 512, 0)
        os.fdatasync(file)
        sys.stdout.write(f"{begin} {time.monotonic()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
