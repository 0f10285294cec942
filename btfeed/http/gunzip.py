"""Decompresses gzip bodies within a size limit. The limit and the response are the caller's: btfeed/receiving/body.py."""

import zlib
from collections.abc import Iterator


class TooLong(Exception):
    """The decompressed data is longer than the limit."""


class Gunzip:
    """Decompresses one gzip stream to at most `limit` bytes.

    STEP     bytes of output at a time, so that the caller can let others run in between
    MEMBERS  members that a stream may have. Real streams have few; one full of empty members would take minutes
    """

    STEP = 2**18
    MEMBERS = 1_000

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._member = zlib.decompressobj(wbits=31)
        self._members = 0
        self._plain = bytearray()
        self._error: zlib.error | None = None

    def feed(self, data: bytes) -> Iterator[int]:
        """Decompress `data` step by step, yielding the total length so far.

        Raises TooLong. Errors in the stream are raised by `end`.
        """
        while data and not self._error:
            try:
                if self._member.eof or not self._members:
                    self._begin()
                self._plain += self._member.decompress(data, min(self.STEP, self._limit - len(self._plain) + 1))
            except zlib.error as error:
                self._error = zlib.error(str(error).rpartition(": ")[2])  # without Python's "Error -3 while ..."
                return
            if len(self._plain) > self._limit:
                raise TooLong
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            yield len(self._plain)

    def end(self) -> bytes:
        """Return the decompressed data. Raises zlib.error if the stream is broken or cut off."""
        if self._error:
            raise self._error
        if self._members and not self._member.eof:
            raise zlib.error("the stream ends early")
        return bytes(self._plain)

    def _begin(self) -> None:
        self._members += 1
        if self._members > self.MEMBERS:
            raise zlib.error(f"more than {self.MEMBERS} members")
        self._member = zlib.decompressobj(wbits=31)
