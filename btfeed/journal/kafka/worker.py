"""Where each of several receivers on one machine spills: two processes can't share a SQLite file.

A receiver alone spills into `journal.spill.directory`, worker K of several into `worker-K` in it. When there are fewer
workers than before, or when `--workers` comes or goes, directories are left over, and may hold posts that Kafka has not got
yet. Each of them is forwarded by exactly one of the workers that there are now.
"""

import re
from pathlib import Path

from btfeed.worker import Worker

__all__ = ["Worker", "spill_directories"]

_NAME = re.compile(r"worker-([1-9]\d{0,5})")


def spill_directories(directory: Path, worker: Worker | None) -> tuple[Path, list[Path]]:
    """The directory that this process spills into, and those left over that it forwards.

    directory: `journal.spill.directory`. worker: None if this is the only process that receives
    """
    by_number = {number: path for path in _listed(directory) if (number := _number(path))}
    if worker is None:
        return directory, [by_number[number] for number in sorted(by_number)]
    left_over = [directory] if worker.number == 1 and any(path.is_file() for path in _listed(directory)) else []
    left_over += [
        by_number[number]
        for number in sorted(by_number)
        if number > worker.of and (number - 1) % worker.of == worker.number - 1
    ]
    return directory / f"worker-{worker.number}", left_over


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []


def _number(path: Path) -> int:
    """Of the worker that the directory is of; 0 if it is of none."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found and path.is_dir() else 0
