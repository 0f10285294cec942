"""Reads the body of a request within its limits of size, memory and time. A body is checked while it grows, not after."""

import asyncio
import zlib

from btfeed.http.gunzip import Gunzip, TooLong
from btfeed.http.request import InvalidBody, Request
from btfeed.receiving.memory import MemoryLimiter, Overloaded, Reservation
from btfeed.receiving.rejection import Rejected
from btfeed.receiving.settings import ReceiverSettings
from sinks.shared.clock import Clock


def is_gzip(request: Request) -> bool:
    """Raises Rejected for a Content-Encoding other than identity and gzip."""
    encoding = request.headers.get(b"content-encoding", b"").strip().lower()
    if encoding not in (b"", b"identity", b"gzip", b"x-gzip"):
        given = encoding.decode("latin-1")
        raise Rejected(
            "encoding", f"unsupported Content-Encoding {given}: use gzip, or leave it out", {"Accept-Encoding": "gzip"}
        )
    return encoding.endswith(b"gzip")


class BodyReader:
    """Reads bodies of at most `max_body` bytes, both as sent and decompressed, within `body_timeout`.

    small: bytes up to which a body needs no reservation
    """

    def __init__(self, settings: ReceiverSettings, clock: Clock) -> None:
        self._max_body = settings.max_body
        self._timeout = settings.body_timeout
        self._clock = clock
        self.small = min(settings.max_body, MemoryLimiter.FREE_BYTES)

    def max_memory(self, request: Request, gzip: bool) -> int:
        """Bytes that reading this body can take. Raises Rejected if its Content-Length is over the limit."""
        length = self._max_body if request.content_length is None else request.content_length
        if length > self._max_body:
            raise self._too_large()
        return length + gzip * self._max_body

    async def read(self, request: Request, gzip: bool, reservation: Reservation) -> bytes:
        """The body, decompressed. Raises Rejected, TimeoutError, or ConnectionError if the client disconnected."""
        if request.complete and request.received <= self.small and not gzip:
            return request.pop_body()  # most bodies: nothing to wait for
        try:
            async with self._clock.timeout(self._timeout):
                return await self._read(request, gzip, reservation)
        except TooLong:
            raise self._too_large() from None
        except Overloaded:
            raise Rejected("overloaded", "too many posts at the same time: try again later") from None
        except InvalidBody as error:
            raise Rejected("incomplete", f"invalid request body: {error}") from None

    async def _read(self, request: Request, gzip: bool, reservation: Reservation) -> bytes:
        await request.wait_for_body(self.small)
        await reservation.ensure(request.received)
        if not await request.wait_for_body(self._max_body):
            raise TooLong
        body = request.pop_body()
        if not gzip:
            return body
        plain = Gunzip(self._max_body)
        try:
            for length in plain.feed(body):
                await reservation.ensure(len(body) + length)
                await asyncio.sleep(0)  # a gzip bomb must not hold up other requests
            return plain.end()
        except zlib.error as error:
            raise Rejected("bad_gzip", f"broken gzip: {error}", body=body) from None

    def _too_large(self) -> Rejected:
        return Rejected("too_large", f"the body is longer than {self._max_body} bytes (receiver.max_body)")
