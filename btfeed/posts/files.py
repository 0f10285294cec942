"""Posts in files: `*.bin` holds one raw body; `*.btposts` holds many, each behind its length as a protobuf varint.

Either may be gzipped (`*.bin.gz`, `*.btposts.gz`). Standard input and output, written `-`, are as `*.btposts`; gzip on
standard input is recognised.
"""

import gzip
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

SUFFIXES = (".bin", ".btposts")
STANDARD = Path("-")
"""Standard input or output."""

_NAMES = " or ".join("*" + suffix for suffix in SUFFIXES)
_CHUNK = 2**20
"""Bytes that are asked for at a time: a length may be claimed that is not there."""
_GZIP = b"\x1f\x8b"
_LEVEL = 1  # of gzip: posts shrink to a quarter, and a post costs little


class PostFileError(Exception):
    """The file can't be read or written, or is not what its name says."""


def is_named_so(path: Path) -> bool:
    """Whether `path` has the name of a post file."""
    return path.name.removesuffix(".gz").endswith(SUFFIXES)


def find(sources: Iterable[Path]) -> list[Path]:
    """The post files among `sources` and in the folders among them, in the order of their names. Raises PostFileError."""
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(path for path in source.rglob("*") if is_named_so(path) and path.is_file())
            if not inside:
                raise PostFileError(f"{source}: no {_NAMES} in this folder")
            found += inside
        elif source == STANDARD or is_named_so(source):
            found.append(source)
        else:
            raise PostFileError(f"{source}: posts are in {_NAMES}, or these with .gz")
    return found


def read(path: Path, told: Callable[[int], object] = lambda position: None) -> Iterator[bytes]:
    """The bodies in one post file. told: called with how far the file is read, before each. Raises PostFileError."""
    try:
        with _opened(path) as raw:
            file = _plain(path, raw)
            where = raw.tell if raw.seekable() else lambda: 0
            one = path.name.removesuffix(".gz").endswith(".bin")
            bodies = iter([file.read()]) if one else _delimited(path, file)
            for body in bodies:
                told(where())
                yield body
    except gzip.BadGzipFile as error:
        raise PostFileError(f"{path}: {error}") from None
    except OSError as error:
        raise PostFileError(f"{path}: {error.strerror}") from None
    except (EOFError, zlib.error):
        raise PostFileError(f"{path}: the gzip stream is broken or cut off") from None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if path == STANDARD:
        yield sys.stdin.buffer
    else:
        with path.open("rb") as file:
            yield file


def _plain(path: Path, raw: BinaryIO) -> BinaryIO:
    """What the file holds, decompressed."""
    if path == STANDARD:
        peek = getattr(raw, "peek", None)
        zipped = peek is not None and peek(len(_GZIP))[: len(_GZIP)] == _GZIP
    else:
        zipped = path.suffix == ".gz"
    return cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if zipped else raw


class Writer:
    """A `*.btposts` file that is being written, gzipped where its name ends with .gz. Methods raise PostFileError."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        """new: the file must not be there yet."""
        if path != STANDARD and not path.name.removesuffix(".gz").endswith(".btposts"):
            raise PostFileError(f"{path}: posts are written to *.btposts, or *.btposts.gz")
        self._path = path
        try:
            self.raw: BinaryIO = sys.stdout.buffer if path == STANDARD else path.open("xb" if new else "wb")
        except OSError as error:
            raise PostFileError(f"{path}: {error.strerror}") from None
        self._file = self.raw
        if path.suffix == ".gz":  # neither a name nor a time: equal posts give equal files
            self._file = cast("BinaryIO", gzip.GzipFile("", "wb", _LEVEL, self.raw, mtime=0))

    def write(self, body: bytes) -> None:
        try:
            write_delimited(self._file, body)
        except OSError as error:
            raise PostFileError(f"{self._path}: {error.strerror}") from None

    def flush(self) -> None:
        """Hand all that was written to the system."""
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
    """Append one body to a `*.btposts` file."""
    file.write(varint(len(body)) + body)


def varint(value: int) -> bytes:
    """`value`, which is not negative, as protobuf writes it."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _delimited(path: Path, file: BinaryIO) -> Iterator[bytes]:
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
                f"{path}: the post at byte {start} is cut off, or this is no file of length-delimited posts"
            )
        start += shift // 7 + length
        yield body


def _exactly(file: BinaryIO, length: int) -> bytes | None:
    """So many bytes, None where the file ends before."""
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
