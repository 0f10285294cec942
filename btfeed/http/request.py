"""One request: its header, and its body as it arrives."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import unquote_to_bytes

import httptools

from btfeed.http.limits import READ_AHEAD

SMALL_PART = 2**12
"""Shorter parts of a body are joined on arrival. A list of one-byte parts would take fifty times the memory."""


class InvalidRequest(Exception):
    """The client sent something that is not a valid HTTP/1.x request, or is not supported.

    status  of the response
    lost    it probably was a post
    """

    def __init__(self, message: str, reason: str = "bad_http", status: int = 400, *, lost: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.lost = lost


class InvalidBody(Exception):
    """The framing of the body is broken."""


class CutOff(ConnectionError):
    """The server cut the connection off. reason: of the posts that this loses."""

    def __init__(self, reason: str) -> None:
        super().__init__("the connection was cut off")
        self.reason = reason


class ClientConnection(Protocol):
    """What a request uses of the connection it arrived on. peer: the client's address."""

    loop: asyncio.AbstractEventLoop
    peer: str

    def resume_reading(self) -> None:
        """The request can take more of its body."""

    def write(self, data: bytes) -> None: ...


class Request:
    """A request whose header has arrived, and the part of its body that has arrived so far.

    path            of the target, percent-decoded
    version         "1.0" or "1.1"
    headers         names in lower case; repeated fields are joined by commas
    keep_alive      the client wants to send more requests on this connection
    content_length  bytes of the body; 0 without a body, None if it is chunked
    received        bytes of the body that have arrived
    complete        the whole body has arrived
    """

    __slots__ = (
        "_buffer_limit", "_connection", "_discarding", "_error", "_parts", "_waiter",
        "complete", "content_length", "headers", "keep_alive", "method", "path", "received", "version",
    )  # fmt: skip

    def __init__(
        self,
        connection: ClientConnection,
        method: str,
        path: bytes,
        version: str,
        headers: dict[bytes, bytes],
        keep_alive: bool,
    ) -> None:
        self.method = method
        self.path = path
        self.version = version
        self.headers = headers
        self.keep_alive = keep_alive
        chunked = b"transfer-encoding" in headers
        self.content_length = None if chunked else int(headers.get(b"content-length", 0))
        self.received = 0
        self.complete = False
        self._connection = connection
        self._parts: list[bytes | bytearray] = []
        self._buffer_limit = READ_AHEAD
        self._discarding = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._connection.peer

    @property
    def carries_post(self) -> bool:
        """Whether it is a post: the loss of other requests harms nothing."""
        return self.method == "POST" and self.content_length != 0

    def again(self, length: bytes, body: bytes) -> "Request":
        """A request that has the same header but for its Content-Length, and whose body has arrived."""
        headers = {**self.headers, b"content-length": length}
        other = Request(self._connection, self.method, self.path, self.version, headers, self.keep_alive)
        other._parts.append(body)
        other.received = len(body)
        other.complete = True
        return other

    # For the handler

    async def wait_for_body(self, limit: int) -> bool:
        """Wait until the whole body or more than `limit` bytes of it have arrived. Returns whether it is within `limit`.

        Raises InvalidBody, CutOff, or another ConnectionError if the client disconnected.
        """
        self._buffer_limit = limit
        if not self.complete and self.received <= limit and not self._error:
            self._waiter = self._connection.loop.create_future()
            self._connection.resume_reading()
            await self._waiter
        if self._error:
            raise self._error
        return self.received <= limit

    def body(self) -> bytes:
        """What has arrived of the body, which stays here."""
        if len(self._parts) == 1 and isinstance(self._parts[0], bytes):
            return self._parts[0]
        return b"".join(self._parts)

    def pop_body(self) -> bytes:
        """Return what has arrived of the body, and release it here."""
        body = self.body()
        self._parts.clear()
        return body

    async def discard_body(self, seconds: float) -> bool:
        """Read over the rest of the body. Returns whether its end arrived in time."""
        self._discarding = True
        self._parts.clear()
        try:
            async with asyncio.timeout(seconds):
                await self.wait_for_body(sys.maxsize)
        except (TimeoutError, InvalidBody, ConnectionError):
            return False
        return True

    def send_continue(self) -> None:
        """Send 100 Continue to a client that waits for it before it sends the body."""
        self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # For the connection

    @property
    def buffer_full(self) -> bool:
        """More of the body has arrived than the handler has asked for."""
        return self.received > self._buffer_limit

    @property
    def remaining(self) -> int:
        """Bytes of the body still to come, 0 if that is not known."""
        return self.content_length - self.received if self.content_length else 0

    def feed_data(self, part: bytes) -> None:
        self.received += len(part)
        if self._discarding:
            return
        if len(part) >= SMALL_PART:
            self._parts.append(part)
        elif self._parts and isinstance(self._parts[-1], bytearray):
            self._parts[-1] += part
        else:
            self._parts.append(bytearray(part))
        if self.received > self._buffer_limit:
            self._wake()

    def feed_eof(self) -> None:
        """The whole body has arrived."""
        self.complete = True
        self._wake()

    def set_exception(self, error: Exception) -> None:
        """The rest of the body will not arrive."""
        self._error = error
        self._parts.clear()  # a raised error keeps this request alive until the garbage collector runs
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


def check_headers(method: str, version: str, headers: Mapping[bytes, bytes]) -> None:
    """Check what llhttp does not. Raises InvalidRequest."""
    if version not in ("1.0", "1.1"):
        raise InvalidRequest(f"HTTP/{version} is not supported: use HTTP/1.1")
    host = headers.get(b"host")
    if (host is None and version == "1.1") or b"," in (host or b""):  # a comma: several fields were joined
        raise InvalidRequest("a request needs exactly one Host header")
    encoding = headers.get(b"transfer-encoding")
    if encoding is not None and encoding.strip().lower() != b"chunked":
        given = encoding.decode("latin-1")
        raise InvalidRequest(f"unsupported Transfer-Encoding {given}: use chunked alone", "transfer_encoding", 501)
    if version == "1.0" and method == "POST" and encoding is None and b"content-length" not in headers:
        raise InvalidRequest("the length of the body is unknown: send Content-Length", "length_required", 411)


def decode_path(target: bytes, method: str) -> bytes:
    """The path in a request target, percent-decoded. Raises InvalidRequest."""
    if target == b"/":
        return target
    if not target.isascii():
        raise InvalidRequest("the request target contains non-ASCII characters: percent-encode them")
    if target.startswith(b"/"):
        return unquote_to_bytes(target.partition(b"?")[0].partition(b"#")[0])
    if method == "CONNECT":  # its target is host:port
        return b"/"
    if method == "OPTIONS" and target == b"*":
        return target
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        url = None
    if url is None or not url.host:
        raise InvalidRequest("the request target is neither a path nor a URL")
    return unquote_to_bytes(url.path or b"/")
