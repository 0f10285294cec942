"""Decodes bodies in chunks (RFC 9112, 7.1). llhttp rejects whitespace in chunk extensions, which is legal."""

import re
from collections.abc import Callable, Iterable
from enum import Enum, auto

from btfeed.http.limits import MAX_HEADER_BYTES, MAX_HEADER_FIELDS
from btfeed.http.request import InvalidRequest

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_TEXT = rb"[\t \x21-\x7e\x80-\xff]"
_QUOTED = rb'"(?:\\' + _TEXT + rb'|(?!["\\])' + _TEXT + rb')*+"'
_SPACE = rb"[\t ]*+"
_EXTENSION = b"".join((_SPACE, b";", _SPACE, _TOKEN, b"(?:", _SPACE, b"=", _SPACE, b"(?:", _TOKEN, b"|", _QUOTED, b"))?+"))
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:" + _EXTENSION + rb")*+" + _SPACE + rb"\r\n")
_TRAILER = re.compile(_TOKEN + b":" + _TEXT + rb"*+\r\n")


class BodyInChunks(Exception):
    """Stops llhttp at the end of the header of such a request."""


def end_of_headers(begun: bytes, data: bytes, place: int, lengths: Iterable[int]) -> int:
    """Where in `data` the last of several headers ends: llhttp stops there, and does not say where that is.

    begun: the last bytes of the first header that came before `data`, if it began there. place: where the first header
    begins. lengths: of the bodies that follow the headers.
    """
    data = begun + data
    for length in lengths:
        while not begun and data[place : place + 1] in (b"\r", b"\n"):  # llhttp skips blank lines before a request
            place += 1
        place = data.index(b"\r\n\r\n", place) + 4 + length
        shift, begun = len(begun), b""
        data, place = data[shift:], place - shift
    return place


class _Next(Enum):
    """What the next line is."""

    SIZE = auto()
    END_OF_CHUNK = auto()
    TRAILER = auto()


class ChunkedBody:
    """One body. `on_data` gets its content. complete: the end has arrived."""

    def __init__(self, on_data: Callable[[bytes], None]) -> None:
        self.complete = False
        self._on_data = on_data
        self._remaining = 0  # bytes of the current chunk
        self._line = b""  # as far as it has arrived
        self._next = _Next.SIZE
        self._trailer_bytes = self._trailer_fields = 0

    def feed(self, data: bytes) -> int:
        """Decode what has arrived. Returns how many bytes belong to the body. Raises InvalidRequest."""
        place = 0
        while place < len(data) and not self.complete:
            if self._remaining:
                part = data[place : place + self._remaining]
                self._on_data(part)
                self._remaining -= len(part)
            else:
                end = data.find(b"\n", place) + 1
                part = data[place : end or len(data)]
                self._add_to_line(part, bool(end))
            place += len(part)
        return place

    def _add_to_line(self, part: bytes, complete: bool) -> None:
        self._line += part
        if len(self._line) > MAX_HEADER_BYTES:
            raise InvalidRequest(f"a line of a chunk is longer than {MAX_HEADER_BYTES} bytes")
        if self._next is _Next.END_OF_CHUNK and not b"\r\n".startswith(self._line):
            raise InvalidRequest("a chunk is longer than its size")
        if complete:
            line, self._line = self._line, b""
            self._read_line(line)

    def _read_line(self, line: bytes) -> None:
        if self._next is _Next.END_OF_CHUNK:
            self._next = _Next.SIZE
        elif self._next is _Next.SIZE:
            found = _SIZE_LINE.fullmatch(line)
            if not found:
                raise InvalidRequest("invalid size or extension of a chunk")
            self._remaining = int(found[1], 16)
            self._next = _Next.END_OF_CHUNK if self._remaining else _Next.TRAILER
        elif line == b"\r\n":
            self.complete = True
        else:
            self._check_trailer(line)

    def _check_trailer(self, line: bytes) -> None:
        """Trailers are ignored, but not without limit."""
        self._trailer_bytes += len(line)
        self._trailer_fields += 1
        if self._trailer_bytes > MAX_HEADER_BYTES or self._trailer_fields > MAX_HEADER_FIELDS:
            raise InvalidRequest(f"the trailer is longer than {MAX_HEADER_BYTES} bytes or {MAX_HEADER_FIELDS} fields")
        if not _TRAILER.fullmatch(line):
            raise InvalidRequest("invalid trailer")
