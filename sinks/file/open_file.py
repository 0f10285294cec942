"""The file being written: appends that are complete and durable or leave no trace, and the rename that finishes it."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from sinks.batch import slice_parts
from sinks.shared.private import create_file, sync_directory

log = structlog.get_logger()

OPEN_SUFFIX = ".open"
IOV_MAX = 1024
"""Buffers that one pwritev takes."""
WRITEBACK_SIZE = 4 * 2**20
"""Bytes after which the kernel is asked to start writing to disk, while the next bytes go to the page cache."""
HEAD_SIZE = 2**20
"""Bytes from the start of a file that hold its header."""


class OpenFile:
    """A file that is appended to. length: the bytes that are durably in it. opened: seconds since the epoch.

    mode: that of a new file. None: it exists.
    """

    def __init__(self, path: Path, length: int, opened: float, mode: int | None = None) -> None:
        self.path = path
        self.length = length
        self.opened = opened
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC) if mode is None else create_file(path, mode)
        self._dirty = False  # there may be bytes after `length`

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Append all of `parts` durably, or nothing. Raises OSError.

        The parts are not joined first: that would cost more than writing them.
        """
        size = sum(map(len, parts))
        try:
            if self._dirty:
                self.truncate()
            self._dirty = True
            written = 0
            while written < size:
                rest = slice_parts(parts, written, min(size - written, WRITEBACK_SIZE))[:IOV_MAX]
                count = os.pwritev(self._descriptor, rest, self.length + written)
                _release_pages(self._descriptor, self.length + written, count)  # starts writing them to disk
                written += count
            os.fdatasync(self._descriptor)
        except OSError:
            with suppress(OSError):  # else the next append tries again
                self.truncate()
            raise
        _release_pages(self._descriptor, self.length, size)
        self.length += size
        self._dirty = False

    def truncate(self) -> None:
        """Cut the file to `length`."""
        os.ftruncate(self._descriptor, self.length)
        self._dirty = False

    def finish(self) -> None:
        """Give the file its final name. May be called again if it raises OSError."""
        self.truncate()
        os.fdatasync(self._descriptor)
        final = self.path.with_name(self.path.name.removesuffix(OPEN_SUFFIX))
        if self.path != final:
            try:
                self.path.rename(final)
            except FileNotFoundError:
                log.error("file removed while it was being written", file=str(self.path))
            self.path = final
        sync_directory(final.parent)

    def head(self) -> bytes:
        """The file's first bytes, including its header."""
        return os.pread(self._descriptor, HEAD_SIZE, 0)

    def close(self) -> None:
        os.close(self._descriptor)


def _release_pages(descriptor: int, offset: int, size: int) -> None:
    """Tell the kernel that these bytes won't be read soon. It then reuses their memory for the next bytes.

    Otherwise each write takes fresh memory, which costs several times as much and evicts what other programs read.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # it is only advice
            os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)
