"""Posts in files: `*.bin` holds one raw body; `*.btposts` holds many, each behind its length as a protobuf varint."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

SUFFIXES = (".bin", ".btposts")


class PostFileError(Exception):
    """The file can't be read, or is not what its name says."""


def find(sources: Iterable[Path]) -> list[Path]:
    """The post files among `sources` and in the folders among them, in the order of their names. Raises PostFileError."""
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(path for path in source.rglob("*") if path.suffix in SUFFIXES and path.is_file())
            if not inside:
                raise PostFileError(f"{source}: no {' or '.join('*' + suffix for suffix in SUFFIXES)} in this folder")
            found += inside
        elif source.suffix not in SUFFIXES:
            raise PostFileError(f"{source}: posts are in {' or '.join('*' + suffix for suffix in SUFFIXES)}")
        else:
            found.append(source)
    return found


def read(path: Path) -> Iterator[bytes]:
    """The bodies in one post file. Raises PostFileError."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".bin":
                yield file.read()
            else:
                yield from _delimited(path, file)
    except OSError as error:
        raise PostFileError(f"{path}: {error.strerror}") from None


def write_delimited(file: BinaryIO, body: bytes) -> None:
    """Append one body to a `*.btposts` file."""
    length = len(body)
    prefix = bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    file.write(prefix + body)


def _delimited(path: Path, file: BinaryIO) -> Iterator[bytes]:
    while True:
        start = file.tell()
        length = shift = 0
        while byte := file.read(1):
            length |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80 or shift > 35:
                break
        if not shift:
            return
        if not byte or shift > 35 or length > os.fstat(file.fileno()).st_size - file.tell():
            raise PostFileError(
                f"{path}: the post at byte {start} is cut off, or this is no file of length-delimited posts"
            )
        yield file.read(length)
