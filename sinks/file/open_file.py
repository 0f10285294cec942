"""The file being written: appends that are complete and durable or leave no trace, and the rename that finishes it.

Whoever has it open holds a lock (flock), so that no other process changes it.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from sinks.batch import slice_parts
from sinks.file.room import take_room
from sinks.shared.private import create_file, sync_directory

OPEN_SUFFIX = ".open"
RESCUE = "if you still have it, move it back and remove .open from its name"
GONE = f"it was deleted or moved; {RESCUE}"
HELD = "another process has it open; give each process its own journal.instance, or its own directory"
IOV_MAX = 1024
"""Buffers that one pwritev takes."""
WRITEBACK_SIZE = 8 * 2**20
"""Bytes after which the kernel is asked to start writing to disk, while the next bytes go to the page cache. A batch of the
default size has fewer: to ask costs more than is won just before the sync."""
HEAD_SIZE = 2**20
"""Bytes from the start of a file that hold its header."""


class HeldByAnother(OSError):
    """Another process, or another sink of this one, has the file open."""


class Loss(NamedTuple):
    """What became of an open file. left: the bytes that can be finished, None if it is not there."""

    what: str
    left: int | None = None


class OpenFile:
    """A file that is appended to.

    length   the bytes that are durably in it
    records  how many records these are
    opened   when it was started, in seconds since the epoch
    due      when to finish it, by the monotonic clock
    ended    nothing may be appended: it has to be finished first
    """

    def __init__(
        self, path: Path, length: int, opened: float = 0.0, due: float = 0.0, records: int = 0, mode: int | None = None
    ) -> None:
        """mode: that of a new file. None: it exists. Raises OSError: HeldByAnother if somebody has it open."""
        self.path = path
        self.length = length
        self.records = records
        self.opened = opened
        self.due = due
        self.ended = False
        self._final = path.with_name(path.name.removesuffix(OPEN_SUFFIX))
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC) if mode is None else create_file(path, mode)
        self._held = os.fstat(self._descriptor)
        self._dirty = False  # there may be bytes after `length`
        try:
            _lock(self._descriptor, path)
        except OSError:
            self.close()
            raise

    def loss(self) -> Loss | None:
        """What another program did to the file. None if it is where it was, and not shorter."""
        if self.path == self._final:
            return None  # a finished file may be moved
        found = stat(self.path)
        if found is None and self._is_held(stat(self._final)):  # a rename succeeded after all, or another program did it
            self.path, self.ended = self._final, True
            return None
        if found is None:
            return Loss(GONE)
        if not self._is_held(found):
            return Loss(f"another file has taken its place; {RESCUE}")
        if found.st_size < self.length:
            return Loss(f"it was truncated to {found.st_size} of {self.length} bytes", found.st_size)
        return None

    def _is_held(self, found: os.stat_result | None) -> bool:
        return found is not None and os.path.samestat(found, self._held)

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Append all of `parts` durably, or nothing. Raises OSError.

        The parts are not joined first: that would cost more than writing them.
        """
        size = sum(map(len, parts))
        try:
            if self._dirty:
                self.truncate()
            self._dirty = True
            take_room(self._descriptor, self.length, size)
            written = 0
            while written < size:
                rest = slice_parts(parts, written, min(size - written, WRITEBACK_SIZE))[:IOV_MAX]
                count = os.pwritev(self._descriptor, rest, self.length + written)
                if written + count < size:
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
        self.ended = True
        if self._dirty or self.path != self._final:
            self.truncate()
            os.fdatasync(self._descriptor)
        if self.path != self._final:
            if os.path.lexists(self._final):  # another program made it, and a rename would replace it
                raise FileExistsError(errno.EEXIST, "can't finish a file under a name that is taken", str(self._final))
            self.path.rename(self._final)
            self.path = self._final
        with suppress(FileNotFoundError):  # the directory was removed with the finished file
            sync_directory(self._final.parent)

    @property
    def size(self) -> int:
        """Bytes in the file, also after `length`."""
        return os.fstat(self._descriptor).st_size

    def rest(self) -> Iterator[bytes]:
        """The bytes after `length`, in parts."""
        offset = self.length
        while part := os.pread(self._descriptor, WRITEBACK_SIZE, offset):
            yield part
            offset += len(part)

    def head(self) -> bytes:
        """The file's first bytes, including its header."""
        return os.pread(self._descriptor, HEAD_SIZE, 0)

    def close(self) -> None:
        os.close(self._descriptor)


def finish(path: Path, length: int | None = None) -> None:
    """Finish an open file that is not continued. length: how much of it to keep, None for all. Raises OSError."""
    with closing(OpenFile(path, path.stat().st_size if length is None else length)) as file:
        file.finish()


def remove(path: Path) -> None:
    """Remove an open file, unless it is gone. Raises OSError."""
    with suppress(FileNotFoundError), closing(OpenFile(path, 0)):
        path.unlink()
    sync_directory(path.parent)


def is_held(path: Path) -> bool:
    """Whether another process, or another sink of this one, has an open file. Raises OSError."""
    try:
        OpenFile(path, 0).close()
    except HeldByAnother:
        return True
    except FileNotFoundError:
        pass
    return False


def stat(path: Path) -> os.stat_result | None:
    """None if nothing is there. Raises other errors."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def find(path: Path) -> os.stat_result | None:
    """An open file, or what it became when it was finished. None if neither is there, or its directory can't be read."""
    with suppress(OSError):
        return stat(path) or stat(path.with_name(path.name.removesuffix(OPEN_SUFFIX)))
    return None


def _lock(descriptor: int, path: Path) -> None:
    """Until the descriptor is closed, or the process ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HeldByAnother(errno.EBUSY, HELD, str(path)) from None
    except OSError:
        pass  # some file systems have no locks
    found = stat(path)
    if found is None or not os.path.samestat(found, os.fstat(descriptor)):  # who had it open until now has taken it away
        raise FileNotFoundError(errno.ENOENT, "removed by another process", str(path))


def _release_pages(descriptor: int, offset: int, size: int) -> None:
    """Tell the kernel that these bytes won't be read soon. It then reuses their memory for the next bytes.

    Otherwise each write takes fresh memory, which costs several times as much and evicts what other programs read.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # it is only advice
            os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)
