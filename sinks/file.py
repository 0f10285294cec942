"""Files of records: NDJSON, or Avro object containers. Every record once, even over kill -9.

Layout: `NAME-20260131T120000Z-0001.ndjson.open` is being written, `NAME-20260131T120000Z-0001.ndjson` is finished. A
finished file is complete and never touched again; the step from one name to the other is an atomic rename.

Invariants
- A write appends to the open file, fsyncs it, and returns its name and length as the sink's state. The loop saves the
  state with the cursor, in one transaction, and says so.
- `open` cuts the open file to the saved length: what is behind it belongs to records that the cursor has not passed, and
  they come again.
- A file is finished only at the start of a write, when its whole length is saved. A crash right after the rename is
  recognised by the finished name. A file that was begun under other settings is finished at `open`.
- An open file that the state does not name was begun and never saved: it is removed. There is a saved state before the
  first record is written, so that where there is none at all the journal is a new one; then such files are finished
  instead: nobody else has what is in them.
- No append begins before what is left of a failed one is cut off.

Each batch is a gzip member, a zstd frame or an Avro block of its own, so that a cut never falls into one.
"""

import asyncio
import errno
import json
import os
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import fastavro
import structlog
from fastavro.write import Writer
from pydantic import model_validator

from sinks.base import Misconfigured, SinkContext, SinkType, Unavailable, WriteResult
from sinks.batch import Batch, cut_parts
from sinks.settings import Seconds, Settings, Size
from sinks.shared.avro import avro_converter, avro_schema

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

log = structlog.get_logger()

T = TypeVar("T")

OPEN = ".open"
IOV_MAX = 1024
"""Parts that one pwritev takes."""
AT_A_TIME = 4 * 2**20
"""Bytes after which the disk begins to work, while the next are written to the page cache."""
_NAME = re.compile(r"-\d{8}T\d{6}Z-\d{4,}\.(ndjson(\.gz|\.zst)?|avro)\.open")
_FOR_A_PERSON = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
_SUFFIX = {"none": "", "gzip": ".gz", "zstd": ".zst"}
_CODEC = {"none": "null", "null": "null", "deflate": "deflate", "zstandard": "zstandard", "zstd": "zstandard"}


class FileSettings(Settings):
    """Records in files.

    directory        where; made if need be
    format           "ndjson", one JSON object a line; or "avro", object container files
    compression      ndjson: none, gzip, zstd. avro: none (or null), deflate, zstandard (or zstd)
    rotate_size      a file is finished when it is so long,
    rotate_interval  or so old
    """

    directory: str = "btfeed-data/files"
    format: Literal["ndjson", "avro"] = "ndjson"
    compression: Literal["none", "gzip", "zstd", "null", "deflate", "zstandard"] = "none"
    rotate_size: Size = 256 * 2**20
    rotate_interval: Seconds = 3600.0

    @model_validator(mode="after")
    def _compression_of_format(self) -> "FileSettings":
        known = _SUFFIX if self.format == "ndjson" else _CODEC
        if self.compression not in known:
            raise ValueError(
                f"compression {self.compression!r} does not go with {self.format}; one of {', '.join(known)} does"
            )
        return self


class FileSink:
    """One open file at a time. Blocking work runs on a thread of its own, so that a call that was cancelled has ended
    before the next begins."""

    def __init__(self, settings: FileSettings, context: SinkContext) -> None:
        self._settings = settings
        self._directory = Path(settings.directory)
        self._prefix = quote(context.name, safe="")  # no two names share one
        self._encode: _Ndjson | _Avro = _Ndjson(settings) if settings.format == "ndjson" else _Avro(settings, context)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sink-{context.name}")
        self._file: _OpenFile | None = None
        self._saved: str | None = None  # the file that the state named at `open`
        self._state: str | None = None  # the last one, and the last that is saved
        self._durable: str | None = None
        self._numbers = count(1)

    async def open(self, state: str | None) -> None:
        await self._run(self._open, state)

    async def check(self) -> None:
        await self._run(_prove_writable, self._directory)

    async def write(self, batch: Batch) -> WriteResult:
        return await self._run(self._write, batch)

    def saved(self, state: str) -> None:
        self._durable = state

    async def close(self) -> None:
        """What is open stays open by name: the next start goes on with it."""
        await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        with _os_errors(self._directory):
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    # On the thread

    def _open(self, state: str | None) -> None:
        self._close()
        _make(self._directory)
        _prove_writable(self._directory)
        saved = json.loads(state) if state else None
        self._saved = saved["file"] if saved else None
        self._state = self._durable = state
        for path in sorted(self._directory.glob(f"{self._prefix}-*{OPEN}")):
            if not _NAME.fullmatch(path.name[len(self._prefix) :]):
                continue  # of a sink whose name starts like this one's
            if not saved:
                log.warning("finishing a file that no journal knows; its last records may be torn", file=str(path))
                self._file = _OpenFile(path, path.stat().st_size, 0.0)
                self._finish()
            elif path.name == self._saved:
                self._go_on(path, saved["length"], saved["opened"])
            else:
                path.unlink()

    def _go_on(self, path: Path, length: int, opened: float) -> None:
        size = path.stat().st_size
        file = self._file = _OpenFile(path, min(length, size), opened)
        file.cut()
        if size < length:
            log.error("a file is shorter than what was written to it", file=str(path), length=size, written=length)
            self._finish()
        elif not (path.name.endswith(f".{self._encode.suffix}{OPEN}") and self._encode.resume(file.head())):
            self._finish()  # written under other settings, or another schema

    def _write(self, batch: Batch) -> WriteResult:
        if self._file and self._file.due(self._settings) and self._durable == self._state:
            self._finish()
        refused: dict[int, str] = {}
        if len(batch):
            if self._file is None:
                self._file = self._create()
            parts, refused = self._encode.batch(batch)
            self._file.append(parts)
        file = self._file
        if file is None:
            self._state = json.dumps({"file": None})
            return WriteResult(state=self._state)
        self._state = json.dumps({"file": file.path.name, "length": file.length, "opened": file.opened})
        due = file.due(self._settings)
        again_after = 0.0 if due else max(0.0, file.opened + self._settings.rotate_interval - time.time())
        return WriteResult(refused=refused, state=self._state, again_after=again_after)

    def _create(self) -> "_OpenFile":
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        for number in self._numbers:
            final = self._directory / f"{self._prefix}-{stamp}-{number:04}.{self._encode.suffix}"
            path = final.with_name(final.name + OPEN)
            if path.name != self._saved and not final.exists() and not path.exists():
                break
        file = _OpenFile(path, 0, time.time())
        try:
            _sync_directory(self._directory)
            file.append([self._encode.begin()])
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            raise
        return file

    def _finish(self) -> None:
        assert self._file
        self._file.finish()
        self._close()

    def _close(self) -> None:
        if self._file:
            file, self._file = self._file, None
            file.close()


class _OpenFile:
    """A file that is appended to. `length` is what is durably in it; opened: seconds since the epoch."""

    def __init__(self, path: Path, length: int, opened: float) -> None:
        self.path = path
        self.length = length
        self.opened = opened
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._torn = False  # there may be something behind `length`

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """All of `parts`, durably, or none of it. They are not joined before: that would cost more than to write them."""
        size = sum(map(len, parts))
        try:
            if self._torn:
                self.cut()
            self._torn = True
            written = 0
            while written < size:
                rest = cut_parts(parts, written, min(size - written, AT_A_TIME))[:IOV_MAX]
                some = os.pwritev(self._descriptor, rest, self.length + written)
                _give_up_pages(self._descriptor, self.length + written, some)  # begins to write them to the disk
                written += some
            os.fdatasync(self._descriptor)
        except OSError:
            with suppress(OSError):
                self.cut()
            raise
        _give_up_pages(self._descriptor, self.length, size)
        self.length += size
        self._torn = False

    def cut(self) -> None:
        os.ftruncate(self._descriptor, self.length)
        self._torn = False

    def finish(self) -> None:
        """Give the file its final name. Where a step fails, all may be tried again."""
        self.cut()
        os.fdatasync(self._descriptor)
        final = self.path.with_name(self.path.name.removesuffix(OPEN))
        if self.path != final:
            try:
                self.path.rename(final)
            except FileNotFoundError:
                log.error("a file was removed while it was being written", file=str(self.path))
            self.path = final
        _sync_directory(final.parent)

    def head(self) -> bytes:
        return os.pread(self._descriptor, 2**20, 0)

    def due(self, settings: FileSettings) -> bool:
        return self.length >= settings.rotate_size or time.time() >= self.opened + settings.rotate_interval

    def close(self) -> None:
        os.close(self._descriptor)


class _Ndjson:
    """Batches as they are, or each compressed by itself."""

    def __init__(self, settings: FileSettings) -> None:
        self.suffix = "ndjson" + _SUFFIX[settings.compression]
        self._compression = settings.compression

    def begin(self) -> bytes:
        return b""

    def resume(self, head: bytes) -> bool:
        return True

    def batch(self, batch: Batch) -> tuple[Sequence[bytes | memoryview], dict[int, str]]:
        if self._compression == "gzip":
            gzip = zlib.compressobj(wbits=31)
            return [gzip.compress(batch.ndjson), gzip.flush()], {}
        return [zstd.compress(batch.ndjson)] if self._compression == "zstd" else batch.parts, {}


class _Avro:
    """A block or more for each batch; all blocks of a file share the header's schema and sync marker."""

    suffix = "avro"

    def __init__(self, settings: FileSettings, context: SinkContext) -> None:
        self._schema = fastavro.parse_schema(avro_schema(context))
        self._codec = _CODEC[settings.compression]
        self._convert = avro_converter(context)
        self._header = b""

    def begin(self) -> bytes:
        buffer = BytesIO()
        Writer(buffer, self._schema, self._codec).flush()
        self._header = buffer.getvalue()
        return self._header

    def resume(self, head: bytes) -> bool:
        """Go on in a file that begins with `head`. False where it was written with another schema or codec."""
        buffer = BytesIO(head)
        try:
            metadata = fastavro.reader(buffer).metadata
            schema = fastavro.parse_schema(json.loads(metadata["avro.schema"]))
        except (ValueError, EOFError, KeyError):
            return False
        self._header = head[: buffer.tell()]
        return (schema, metadata.get("avro.codec", "null")) == (self._schema, self._codec)

    def batch(self, batch: Batch) -> tuple[Sequence[bytes], dict[int, str]]:
        bodies = batch.bodies
        try:
            return [self._blocks(bodies)], {}
        except Exception:
            refused = self._refused(bodies)
            if not refused:
                raise
            return [self._blocks([body for index, body in enumerate(bodies) if index not in refused])], refused

    def _blocks(self, bodies: list[bytes]) -> bytes:
        """A new writer each time: one that failed keeps what it had of its block."""
        buffer = BytesIO(self._header)
        buffer.seek(0, os.SEEK_END)
        writer: Any = Writer(buffer, self._schema, self._codec)
        for body in bodies:
            writer.write(self._convert(body))
        writer.flush()
        return buffer.getvalue()[len(self._header) :]

    def _refused(self, bodies: list[bytes]) -> dict[int, str]:
        refused = {}
        for index, body in enumerate(bodies):
            try:
                fastavro.schemaless_writer(BytesIO(), self._schema, self._convert(body))
            except Exception as error:  # noqa: BLE001 - whatever it is, this record has it alone
                refused[index] = f"does not fit the Avro schema: {error!r}"
        return refused


def _make(directory: Path) -> None:
    """Make `directory`, durably."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync_directory(directory.parent)


def _prove_writable(directory: Path) -> None:
    """Raises OSError where `directory` can't be written, or can't be made."""
    while not directory.exists():
        directory = directory.parent
    tempfile.TemporaryFile(dir=directory).close()


def _give_up_pages(descriptor: int, offset: int, size: int) -> None:
    """Tell the kernel that what was written will not be read soon. It then writes the next into the same memory; to find
    fresh memory for it costs several times as much, and takes the place of what others want to read again."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # it is only advice
            os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _os_errors(directory: Path) -> Iterator[None]:
    """A full disk passes; a directory that may not be written does not."""
    try:
        yield
    except OSError as error:
        if error.errno in _FOR_A_PERSON:
            raise Misconfigured(f"can't write to {directory}: {error}") from error
        raise Unavailable(f"can't write to {directory}: {error}") from error


SINK = SinkType(FileSettings, FileSink, serial=True, delivery={"max_records": 20_000, "max_bytes": "20MiB"})
