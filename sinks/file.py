"""Files of records: NDJSON, or Avro object containers. Every record once, even over kill -9.

Layout: `NAME-20260131T120000Z-0001.ndjson.open` is being written, `NAME-20260131T120000Z-0001.ndjson` is finished. A
finished file is complete and never touched again; the step from one name to the other is an atomic rename.

Invariants
- A write appends to the open file, fsyncs it, and returns its name and length as the sink's state. The loop saves the
  state with the cursor, in one transaction, before it writes again.
- `open` cuts the open file to the saved length: what is behind it belongs to records that the cursor has not passed, and
  they come again.
- A file is finished only at the start of a write, when its whole length is saved. A crash right after the rename is
  recognised by the finished name.
- An open file that the state does not name was begun and never saved: it is removed. Where there is no state at all (a new
  journal), such files are finished instead: nobody else has what is in them.

Each batch is a gzip member, a zstd frame or an Avro block of its own, so that a cut never falls into one.
"""

import asyncio
import errno
import json
import os
import re
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import fastavro
import structlog
import zstandard
from fastavro.write import Writer
from pydantic import model_validator

from sinks._avro import avro_converter, avro_schema
from sinks.base import Batch, Misconfigured, Seconds, Settings, SinkContext, SinkType, Size, Unavailable, WriteResult

log = structlog.get_logger()

OPEN = ".open"
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

    directory: str
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
    """One open file at a time. Blocking work runs on a thread."""

    def __init__(self, settings: FileSettings, context: SinkContext) -> None:
        self._settings = settings
        self._directory = Path(settings.directory)
        self._prefix = re.sub(r"[^A-Za-z0-9._-]", "_", context.name)
        self._encode: _Ndjson | _Avro = _Ndjson(settings) if settings.format == "ndjson" else _Avro(settings, context)
        self._file: _OpenFile | None = None

    async def open(self, state: str | None) -> None:
        with _os_errors(self._directory):
            await asyncio.to_thread(self._open, state)

    async def check(self) -> None:
        with _os_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._directory).close()

    async def write(self, batch: Batch) -> WriteResult:
        with _os_errors(self._directory):
            return await asyncio.to_thread(self._write, batch)

    async def close(self) -> None:
        """What is open stays open by name: the next start goes on with it."""
        if self._file:
            self._file.close()
            self._file = None

    def _open(self, state: str | None) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=self._directory).close()
        saved = json.loads(state) if state else None
        for path in sorted(self._directory.glob(f"{self._prefix}-*{OPEN}")):
            if not re.fullmatch(r"\d{8}T\d{6}Z-\d{4}\..*", path.name[len(self._prefix) + 1 :]):
                continue  # of a sink whose name starts like this one's
            if saved and path.name == saved["file"]:
                self._go_on(path, saved["length"], saved["opened"])
            elif saved:
                path.unlink()
            else:
                log.warning("finishing a file that no journal knows", file=str(path))
                _finish(path)

    def _go_on(self, path: Path, length: int, opened: float) -> None:
        size = path.stat().st_size
        if size < length:
            log.error("a file is shorter than what was written to it", file=str(path), length=size, written=length)
            _finish(path)
            return
        file = _OpenFile(path, length, opened)
        file.cut()
        if self._encode.resume(file.head()):
            self._file = file
        else:  # written under another schema
            file.close()
            _finish(path)

    def _write(self, batch: Batch) -> WriteResult:
        if self._file and self._file.due(self._settings):
            self._file.close()
            _finish(self._file.path)
            self._file = None
        if len(batch):
            if self._file is None:
                self._file = self._create()
            self._file.append(self._encode.batch(batch))
        if self._file is None:
            return WriteResult()
        file = self._file
        state = json.dumps({"file": file.path.name, "length": file.length, "opened": file.opened})
        return WriteResult(state=state, again_after=max(0.1, file.opened + self._settings.rotate_interval - time.time()))

    def _create(self) -> "_OpenFile":
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        for number in range(1, 10_000):
            final = self._directory / f"{self._prefix}-{stamp}-{number:04}.{self._encode.suffix}"
            path = final.with_name(final.name + OPEN)
            if not final.exists() and not path.exists():
                break
        file = _OpenFile(path, 0, time.time())
        try:
            _sync_directory(self._directory)
            file.append(self._encode.begin())
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            raise
        return file


class _OpenFile:
    """A file that is appended to. `length` is what is durably in it; opened: seconds since the epoch."""

    def __init__(self, path: Path, length: int, opened: float) -> None:
        self.path = path
        self.length = length
        self.opened = opened
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def append(self, data: bytes | memoryview) -> None:
        """All of `data`, durably, or none of it."""
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self.length + written)
            os.fdatasync(self._descriptor)
        except OSError:
            with suppress(OSError):
                self.cut()
            raise
        self.length += len(data)

    def cut(self) -> None:
        os.ftruncate(self._descriptor, self.length)

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
        self._zstd = zstandard.ZstdCompressor()

    def begin(self) -> bytes:
        return b""

    def resume(self, head: bytes) -> bool:
        return True

    def batch(self, batch: Batch) -> bytes | memoryview:
        if self._compression == "gzip":
            gzip = zlib.compressobj(wbits=31)
            return gzip.compress(batch.ndjson) + gzip.flush()
        return self._zstd.compress(batch.ndjson) if self._compression == "zstd" else batch.ndjson


class _Avro:
    """A block or more for each batch; all blocks of a file share the header's schema and sync marker."""

    suffix = "avro"

    def __init__(self, settings: FileSettings, context: SinkContext) -> None:
        self._schema = fastavro.parse_schema(avro_schema(context))
        self._codec = _CODEC[settings.compression]
        self._convert = avro_converter(context)
        self._buffer = BytesIO()
        self._writer: Any = None

    def begin(self) -> bytes:
        self._buffer = BytesIO()
        self._writer = Writer(self._buffer, self._schema, self._codec)
        return self._drain()

    def resume(self, head: bytes) -> bool:
        """Go on in a file that begins with `head`. False where it was written with another schema or codec."""
        try:
            metadata = fastavro.reader(BytesIO(head)).metadata
            schema = fastavro.parse_schema(json.loads(metadata["avro.schema"]))
        except (ValueError, EOFError, KeyError):
            return False
        if (schema, metadata.get("avro.codec", "null")) != (self._schema, self._codec):
            return False
        self._buffer = BytesIO(head)
        self._buffer.seek(0, os.SEEK_END)
        self._writer = Writer(self._buffer, self._schema, self._codec)
        self._drain()
        return True

    def batch(self, batch: Batch) -> bytes:
        for body in batch.bodies:
            self._writer.write(self._convert(body))
        self._writer.flush()
        return self._drain()

    def _drain(self) -> bytes:
        data = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return data


def _finish(path: Path) -> None:
    path.rename(path.with_name(path.name.removesuffix(OPEN)))
    _sync_directory(path.parent)


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


SINK = SinkType(FileSettings, FileSink, serial=True)
