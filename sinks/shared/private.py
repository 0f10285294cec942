"""Files and directories that other users can't read: what they hold is as confidential as what AppMon sees.

A mode applies to what is created, whatever the umask. Whatever exists keeps its mode.
"""

import os
from contextlib import suppress
from pathlib import Path

PRIVATE = 0o600
"""The mode of a file that only its owner can use."""


def create_file(path: Path, mode: int = PRIVATE) -> int:
    """A descriptor to read and write a new file. Raises OSError, FileExistsError if it exists."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with suppress(OSError):  # some file systems have no modes
        os.fchmod(descriptor, mode)
    return descriptor


def open_file(path: Path, mode: int = PRIVATE) -> int:
    """A descriptor to read and write a file, which is created if it doesn't exist. Raises OSError."""
    try:
        return create_file(path, mode)
    except FileExistsError:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)


def create_directory(directory: Path, mode: int = PRIVATE) -> None:
    """Create `directory` and its parents, durably, for those who may read files of this mode. Raises OSError."""
    if directory.is_dir():
        return
    create_directory(directory.parent, mode)
    searchable = mode | (mode & 0o444) >> 2
    try:
        directory.mkdir(searchable)
    except FileExistsError:
        if not directory.is_dir():
            raise
    else:
        with suppress(OSError):  # some file systems have no modes
            directory.chmod(searchable)
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make new, renamed and removed names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
