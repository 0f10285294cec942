"""Posts in files: `*.bin` holds one raw body, `*.btposts` many, each after its length as a protobuf varint.

Both may be gzipped (`*.bin.gz`, `*.btposts.gz`). `-` is standard input or output in the format of
`*.btposts`, also as /dev/stdin and /dev/stdout; gzip on standard input is detected.
"""

import errno
import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from btfeed.signals import standard_input

SUFFIXES = (".bin", ".btposts")
STANDARD = Path("-")
"""Stands for standard input or output."""

_NAMES = " or ".join("*" + suffix for suffix in SUFFIXES)
_CHUNK = 2**20
"""Bytes to read at a time: a broken file may claim a length that it does not have."""
_GZIP = b"\x1f\x8b"
_LEVEL = 1  # of gzip: shrinks posts to a quarter at little cost


class PostFileError(Exception):
    """The file cannot be read or written, or has another format than its name says."""


def standard(path: Path) -> Path:
    """`path`, or STANDARD if it is the name of a standard stream."""
    return STANDARD if str(path) in ("/dev/stdin", "/dev/stdout") else path


def is_post_file(path: Path) -> bool:
    """Whether `path` has a name that post files have."""
    return path.name.removesuffix(".gz").endswith(SUFFIXES)


def find(sources: Iterable[Path]) -> list[Path]:
    """The post files among `sources` and, sorted, those of the directories among them.

    Raises PostFileError, also if one of them does not exist or must not be read.
    """
    found: list[Path] = []
    for source in map(standard, sources):
        try:
            found += _find(source)
        except OSError as error:
            raise PostFileError(f"{error.filename or source}: {error.strerror}") from None
    return found


def _find(source: Path) -> list[Path]:
    if source == STANDARD:
        return [source]
    if not source.is_dir():
        if not is_post_file(source):
            raise PostFileError(
                f"{source}: not a post file: use a name that ends with .bin, .btposts, .bin.gz or .btposts.gz"
            )
        _check_readable(source)
        return [source]
    inside = []
    for folder, _, names in os.walk(source, onerror=_raise):
        inside += [path for name in names if is_post_file(path := Path(folder, name)) and path.is_file()]
    if not inside:
        raise PostFileError(f"{source}: no {_NAMES} in this directory")
    for path in inside:
        _check_readable(path)
    return sorted(inside)


def _raise(error: OSError) -> None:
    raise error


def _check_readable(path: Path) -> None:
    """Raises OSError. A FIFO is not opened for this: its writer would notice."""
    path.stat()
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def read(path: Path, progress: Callable[[int], object] = lambda position: None) -> Iterator[bytes]:
    """The bodies in a post file. Calls `progress` before each with the position in the file. Raises PostFileError."""
    try:
        with _opened(path) as raw:
            file = _plain(path, raw)
            position = raw.tell if raw.seekable() else lambda: 0
            one = path.name.removesuffix(".gz").endswith(".bin")
            bodies = iter([file.read()]) if one else read_delimited(path, file)
            for body in bodies:
                progress(position())
                yield body
    except gzip.BadGzipFile:
        raise PostFileError(f"{path}: not gzip data, or damaged: a name that ends with .gz is for gzipped files") from None
    except OSError as error:
        raise PostFileError(f"{path}: {error.strerror}") from None
    except (EOFError, zlib.error):
        raise PostFileError(f"{path}: the gzip data is broken or cut off") from None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if path != STANDARD:
        with path.open("rb") as file:
            yield file
        return
    given = standard_input()
    if given is None:
        raise PostFileError("standard input is closed")
    with given:
        yield given


def _plain(path: Path, raw: BinaryIO) -> BinaryIO:
    """The file, decompressed if it is gzipped."""
    if path == STANDARD:
        peek = getattr(raw, "peek", None)
        zipped = peek is not None and peek(len(_GZIP))[: len(_GZIP)] == _GZIP
    else:
        zipped = path.suffix == ".gz"
    return cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if zipped else raw


def check_writable(path: Path) -> None:
    """Raises PostFileError unless Writer writes files of this name."""
    if path != STANDARD and not path.name.removesuffix(".gz").endswith(".btposts"):
        raise PostFileError(f"{path}: use a name that ends with .btposts or .btposts.gz")


class Writer:
    """Writes a `*.btposts` file, gzipped if its name ends with .gz. Methods raise PostFileError."""

    def __init__(self, path: Path, opened: BinaryIO | None = None) -> None:
        """opened: the file at `path`, opened for writing and empty. By default it is opened here."""
        check_writable(path)
        self._path = path
        try:
            self.raw = opened or (sys.stdout.buffer if path == STANDARD else cast("BinaryIO", path.open("wb")))
        except OSError as error:
            raise PostFileError(f"{path}: {error.strerror}") from None
        self._file = self.raw
        if path.suffix == ".gz":  # without name and time in it: equal posts give equal files
            self._file = cast("BinaryIO", gzip.GzipFile("", "wb", _LEVEL, self.raw, mtime=0))

    def write(self, body: bytes) -> None:
        try:
            write_delimited(self._file, body)
        except OSError as error:
            raise PostFileError(f"{self._path}: {error.strerror}") from None

    def flush(self) -> None:
        """Passes all that was written to the operating system."""
        try:
            self._file.flush()
            self.raw.flush()
        except OSError as error:
            raise PostFileError(f"{self._path}: {error.strerror}") from None

    def close(self) -> None:
        try:
            if self._file is not self.raw:
                self._file.close()
            if self._path == STANDARD:
                self.raw.flush()
            else:
                self.raw.close()
        except OSError as error:
            raise PostFileError(f"{self._path}: {error.strerror}") from None


def write_delimited(file: BinaryIO, body: bytes) -> None:
    """Appends one body to a `*.btposts` file."""
    file.write(varint(len(body)) + body)


def varint(value: int) -> bytes:
    """A value that is not negative as a protobuf varint."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def read_delimited(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """The bodies in an open `*.btposts` file that is not gzipped. path: its name in errors."""
    start = 0
    while True:
        length = shift = 0
        while byte := file.read(1):
            length |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80 or shift > 35:
                break
        if not shift:
            return
        body = _exactly(file, length) if byte and shift <= 35 else None
        if body is None:
            raise PostFileError(
                f"{path}: the post at byte {start} is cut off, or the file does not contain length-delimited posts"
            )
        start += shift // 7 + length
        yield body


def _exactly(file: BinaryIO, length: int) -> bytes | None:
    """`length` bytes, or None if the file ends earlier."""
    body = file.read(min(length, _CHUNK))
    if len(body) == length:
        return body
    grown = bytearray(body)
    while len(grown) < length:
        chunk = file.read(min(length - len(grown), _CHUNK))
        if not chunk:
            return None
        grown += chunk
    return bytes(grown)
