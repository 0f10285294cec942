"""Damaged files with records as lines: which they are, and what of them can be read.

DuckDB refuses a file as a whole where a line is too long, or where it can't decompress. A zstd file that is cut it reads up
to the cut without a word.
"""

import gzip
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from btfeed.flow.errors import FlowError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LONGEST = 2**24 - 1
"""Bytes of a line that DuckDB reads."""
_CHUNK = 2**20
_FAILING = (EOFError, zlib.error, zstd.ZstdError, gzip.BadGzipFile)
_FRAME, _SKIPPED = 0xFD2FB528, 0x184D2A50
"""Magic numbers of zstd: of a frame, and of one that has no data, whose last four bits are free (RFC 8878, 3.1)."""


class SourceError(FlowError):
    """A source can't be read. The message says which one, why, and what to do."""


def faults(path: Path) -> tuple[bool, int]:
    """Whether a file can't be decompressed to its end, and how many of its lines are too long. Raises SourceError."""
    long = length = 0
    try:
        with _opened(path) as file:
            while chunk := file.read(_CHUNK):
                first = chunk.find(b"\n")
                length += len(chunk) if first < 0 else first
                if first >= 0:
                    long += length > LONGEST
                    length = len(chunk) - chunk.rfind(b"\n") - 1
    except _FAILING:
        return True, long
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    return False, long + (length > LONGEST)


def readable(path: Path) -> Iterator[bytes]:
    """The whole lines before any damage that are not too long."""
    size = 2**10 if path.suffix in (".gz", ".zst") else _CHUNK  # small pieces, since a read that fails gives nothing
    rest, length = bytearray(), 0
    try:
        with _opened(path) as file:
            while chunk := file.read(size):
                first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
                end = len(chunk) if first < 0 else first
                length += end
                if length <= LONGEST:
                    rest += chunk[:end]
                if first >= 0:
                    yield bytes(rest) + b"\n" if length <= LONGEST else b""
                    yield chunk[first + 1 : last + 1]
                    rest, length = bytearray(chunk[last + 1 :]), len(chunk) - last - 1
    except _FAILING:
        return
    if rest and length <= LONGEST:
        yield bytes(rest) + b"\n"


def is_cut(path: Path) -> bool:
    """Whether the last frame of a zstd file is not whole. Reads only the headers of frames and blocks (RFC 8878, 3.1.1).

    DuckDB finds other damage itself. Raises OSError.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            magic = _number(file, 4)
            if magic & ~0xF == _SKIPPED:
                file.seek(_number(file, 4), 1)
            elif magic == _FRAME:
                _pass_frame(file)
            else:
                return False  # no zstd, which DuckDB says
            if file.tell() > size:
                return True
    return False


def _pass_frame(file: BinaryIO) -> None:
    """Go to the end of a frame, or beyond the end of the file if it is cut."""
    descriptor = _number(file, 1)
    single = descriptor >> 5 & 1
    content = (single, 2, 4, 8)[descriptor >> 6]
    file.seek((0 if single else 1) + (0, 1, 2, 4)[descriptor & 3] + content, 1)
    last = 0
    while not last:
        head = file.read(3)
        if len(head) < 3:
            file.seek(4, 1)  # beyond the end
            return
        number = int.from_bytes(head, "little")
        last, kind, length = number & 1, number >> 1 & 3, number >> 3
        file.seek(1 if kind == 1 else length, 1)
    file.seek(4 if descriptor >> 2 & 1 else 0, 1)


def _number(file: BinaryIO, size: int) -> int:
    return int.from_bytes(file.read(size), "little")


def _opened(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast("BinaryIO", gzip.open(path))
    return cast("BinaryIO", zstd.open(path)) if path.suffix == ".zst" else path.open("rb")
