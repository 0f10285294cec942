"""The formats of files: NDJSON and Avro object container files.

Each batch becomes a unit of its own, a gzip member, a zstd frame or Avro blocks, so that a file can be cut after any batch.
"""

import json
import os
import sys
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Protocol

import fastavro
from fastavro.write import Writer

from sinks.base import SinkContext
from sinks.batch import Batch
from sinks.shared.avro import avro_converter, avro_schema

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NDJSON_SUFFIXES = {"none": "", "gzip": ".gz", "zstd": ".zst"}
"""Compressions of NDJSON, and what they add to a file's name."""
AVRO_CODECS = {"none": "null", "null": "null", "deflate": "deflate", "zstandard": "zstandard", "zstd": "zstandard"}
"""Compressions of Avro as configured, and their names in Avro."""

Parts = Sequence[bytes | memoryview]


class Encoder(Protocol):
    """Encodes batches for one file after another. suffix: the end of the files' names."""

    suffix: str

    def header(self) -> bytes:
        """The beginning of a new file, which the next batches are for."""

    def resume(self, head: bytes) -> bool:
        """Continue with a file that starts with `head`. False if it was written with another schema or codec."""

    def encode(self, batch: Batch) -> tuple[Parts, dict[int, str]]:
        """The bytes to append, and the records that can't be encoded: index -> reason."""


class NdjsonEncoder:
    """One JSON record a line: batches as they are, or each compressed by itself."""

    def __init__(self, compression: str) -> None:
        self.suffix = "ndjson" + NDJSON_SUFFIXES[compression]
        self._compression = compression

    def header(self) -> bytes:
        return b""

    def resume(self, head: bytes) -> bool:
        return True

    def encode(self, batch: Batch) -> tuple[Parts, dict[int, str]]:
        if self._compression == "gzip":
            gzip = zlib.compressobj(wbits=31)
            return [gzip.compress(batch.ndjson), gzip.flush()], {}
        return [zstd.compress(batch.ndjson)] if self._compression == "zstd" else batch.parts, {}


class AvroEncoder:
    """One or more Avro blocks for each batch. All blocks of a file use the schema and the sync marker of its header."""

    suffix = "avro"

    def __init__(self, compression: str, context: SinkContext) -> None:
        self._schema = fastavro.parse_schema(avro_schema(context))
        self._codec = AVRO_CODECS[compression]
        self._convert = avro_converter(context)
        self._header = b""

    def header(self) -> bytes:
        buffer = BytesIO()
        Writer(buffer, self._schema, self._codec).flush()
        self._header = buffer.getvalue()
        return self._header

    def resume(self, head: bytes) -> bool:
        buffer = BytesIO(head)
        try:
            metadata = fastavro.reader(buffer).metadata
            schema = fastavro.parse_schema(json.loads(metadata["avro.schema"]))
        except (ValueError, EOFError, KeyError):
            return False
        self._header = head[: buffer.tell()]
        return (schema, metadata.get("avro.codec", "null")) == (self._schema, self._codec)

    def encode(self, batch: Batch) -> tuple[Parts, dict[int, str]]:
        bodies = batch.bodies
        try:
            return [self._blocks(bodies)], {}
        except Exception:
            refused = self._unencodable(bodies)
            if not refused:
                raise
            return [self._blocks([body for index, body in enumerate(bodies) if index not in refused])], refused

    def _blocks(self, bodies: list[bytes]) -> bytes:
        """Uses a new writer each time: after an error, a writer keeps part of its block."""
        buffer = BytesIO(self._header)
        buffer.seek(0, os.SEEK_END)
        writer: Any = Writer(buffer, self._schema, self._codec)
        for body in bodies:
            writer.write(self._convert(body))
        writer.flush()
        return buffer.getvalue()[len(self._header) :]

    def _unencodable(self, bodies: list[bytes]) -> dict[int, str]:
        refused = {}
        for index, body in enumerate(bodies):
            try:
                fastavro.schemaless_writer(BytesIO(), self._schema, self._convert(body))
            except Exception as error:  # noqa: BLE001 - any error concerns this record alone
                refused[index] = f"does not fit the Avro schema: {error!r}"
        return refused
