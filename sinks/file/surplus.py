"""Records in open files that the state does not cover. They are kept until this sink has written them again.

After a crash, these are what was written and not saved yet: they come again at once. But another journal may have written
them, or a later state of the journal that this one is a copy of. Then they do not come again, and the file has the only
copy. So nothing is deleted before each of its records has been written again, by event.id.
"""

import gzip
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import fastavro

from sinks.file.open_file import OpenFile
from sinks.shared.private import sync_directory

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PATIENCE = 60.0
"""Seconds after `open` in which the records have to come again. After a crash, they are the first that come."""
_MAX_RECORDS = 250_000
"""Records of a file beyond which it is not compared: many times what is written before a state is saved."""


class Surplus:
    """An open file of which this sink does not know whether its records come again.

    ids            event.id of each whole record
    seen           how many of the first ones are written again; part of the sink's state
    is_comparable  False if it has too many records to be what a crash left, or none that can be read
    """

    def __init__(self, path: Path, seen: int) -> None:
        self.path = path
        self.ids, is_readable = _ids(path)
        self.is_comparable = is_readable and len(self.ids) <= _MAX_RECORDS
        self.seen = seen
        self._unseen = set(self.ids[seen:])

    @property
    def unseen(self) -> int:
        """How many records were not written again."""
        return len(self._unseen)

    def written(self, ids: Iterable[str]) -> None:
        """These records are durable in another file."""
        if self._unseen:
            self._unseen.difference_update(ids)
            while self.seen < len(self.ids) and self.ids[self.seen] not in self._unseen:
                self.seen += 1


def copy_rest(file: OpenFile, path: Path, mode: int) -> None:
    """Copy what is after the length of `file` to a new file, durably, or nothing. Raises OSError."""
    with closing(OpenFile(path, 0, mode=mode)) as copy:
        try:
            copy.append([_header(file.path)])
            for part in file.rest():
                copy.append([part])
            sync_directory(path.parent)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _header(path: Path) -> bytes:
    """What has to be in front of a part of the file so that it can be read by itself."""
    if ".avro" not in path.suffixes:
        return b""
    with path.open("rb") as file:
        fastavro.reader(file)
        length = file.tell()
        file.seek(0)
        return file.read(length)


def _ids(path: Path) -> tuple[list[str], bool]:
    """event.id of each record, or of one more than _MAX_RECORDS. False if there is something else and no record. Raises
    OSError if the file can't be read.

    A crash can leave half a record or, with the power, anything at the end, which was never saved."""
    found: list[str] = []
    with path.open("rb") as file:
        try:
            for identifier in islice(_read_ids(file, path.name), _MAX_RECORDS + 1):
                found.append(identifier)  # noqa: PERF402 - what was found before an error counts
        except EOFError:
            pass
        except Exception as error:  # each library has errors of its own
            if isinstance(error, OSError) and error.errno is not None:
                raise
            return found, bool(found) or ".avro" in path.suffixes  # its errors don't tell what is torn
    return found, True


def _read_ids(file: BinaryIO, name: str) -> Iterator[str]:
    name = name.removesuffix(".open")
    if name.endswith(".avro"):
        record: Any
        for record in fastavro.reader(file):
            yield record["event_id"]
        return
    lines: Iterable[bytes] = file
    if name.endswith(".gz"):
        lines = gzip.GzipFile(fileobj=file)
    elif name.endswith(".zst"):
        lines = zstd.ZstdFile(file)
    for line in lines:
        if line.endswith(b"\n"):
            yield json.loads(line)["event.id"]
