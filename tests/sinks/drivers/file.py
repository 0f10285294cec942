"""Files of every format, and how to read them."""

import gzip
import io
import json
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import fastavro

from btfeed.records.schema import MAPS, RECORD_FIELDS
from sinks.base import Sink, SinkContext
from sinks.file import FileSettings, FileSink
from sinks.shared.clock import SYSTEM_CLOCK, Clock

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTEXT = SinkContext("files", RECORD_FIELDS, MAPS)
FORMATS = {
    "ndjson": {"format": "ndjson", "compression": "none"},
    "ndjson-gzip": {"format": "ndjson", "compression": "gzip"},
    "ndjson-zstd": {"format": "ndjson", "compression": "zstd"},
    "avro": {"format": "avro", "compression": "none"},
    "avro-deflate": {"format": "avro", "compression": "deflate"},
    "avro-zstandard": {"format": "avro", "compression": "zstandard"},
}


def file_sink(
    directory: Path,
    settings: Mapping[str, object] | None = None,
    name: str = "files",
    clock: Clock = SYSTEM_CLOCK,
    part: str = "",
) -> FileSink:
    """A file sink that writes to `directory`."""
    context = SinkContext(name, RECORD_FIELDS, MAPS, clock, part)
    return FileSink(FileSettings.model_validate({"directory": str(directory), **(settings or {})}), context)


def read_records(path: Path) -> list[bytes]:
    """The records of one file, open or finished; of Avro as canonical JSON. Raises if the end is incomplete."""
    data = path.read_bytes()
    name = path.name.removesuffix(".open")
    if name.endswith(".avro"):
        return [json_of(record) for record in read_avro(data)] if data else []
    if name.endswith(".gz"):
        data = gzip.decompress(data)
    elif name.endswith(".zst"):
        data = zstd.decompress(data)
    assert not data or data.endswith(b"\n")
    return data.splitlines()


def only_file(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


def read_avro(data: bytes) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = list(fastavro.reader(io.BytesIO(data)))  # type: ignore[arg-type]
    return records


def json_of(record: dict[str, Any]) -> bytes:
    """An Avro record as the JSON record that it was made from, with sorted keys."""
    fields: dict[str, Any] = dict(record["attributes"])
    for prefix in MAPS:
        values = record[prefix.name.strip(".").replace(".", "_")]
        fields |= {prefix.name + name: value for name, value in values.items()}
    for field in RECORD_FIELDS:
        value = record[field.name.replace(".", "_")]
        if isinstance(value, datetime):
            value = value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if value is not None:
            fields[field.name] = value
    return canonical(json.dumps(fields).encode())


def canonical(body: bytes) -> bytes:
    return json.dumps(json.loads(body), sort_keys=True).encode()


class FileDriver:
    """A directory of files, small enough that they rotate sometimes."""

    serial = once = True

    def __init__(self, directory: Path, settings: dict[str, object]) -> None:
        self._settings = {"rotate_size": "200KiB"} | settings
        self._root = directory
        self._directory = directory / "new" / "files"

    def create(self) -> Sink:
        return file_sink(self._directory, self._settings)

    def create_broken(self) -> Sink:
        (self._root / "a file").touch()
        return file_sink(self._root / "a file" / "files", self._settings)

    async def read(self) -> list[bytes]:
        return [record for path in sorted(self._directory.glob("*")) for record in read_records(path)]

    def expected(self, bodies: list[bytes]) -> list[bytes]:
        return [canonical(body) for body in bodies] if self._settings["format"] == "avro" else bodies

    async def snapshot(self) -> object:
        return sorted((path, path.stat().st_mtime_ns) for path in self._root.rglob("*"))

    async def close(self) -> None:
        """The directory is the test's own."""


def _driver(settings: dict[str, object]) -> Callable[[Path], FileDriver]:
    return lambda directory: FileDriver(directory, settings)


DRIVERS = {name: _driver(dict(settings)) for name, settings in FORMATS.items()}
