"""Reads files that a configuration consists of. A named pipe in place of one must not block the start or a reload."""

import os
import stat
from pathlib import Path


class NotRegular(Exception):
    """It is a directory, a named pipe, a device or the like."""


def read(path: Path, size: int = -1) -> bytes:
    """The first `size` bytes, or all. Raises NotRegular or OSError."""
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NotRegular
        return file.read(size)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
