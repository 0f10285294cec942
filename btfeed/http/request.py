"""A request as it comes over a connection, and the answer to it."""

import asyncio
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote_to_bytes

import httptools

READ_AHEAD = 2**16
"""Bytes of a body that come in before somebody asks for it."""
SMALL_PART = 2**12
"""Parts of a body that are shorter are put together at once: a list of single bytes would take fifty times their size."""


class BadHttp(Exception):
    """What came is no HTTP."""


class Incomplete(Exception):
    """The body does not go on as HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """text: the body, plain text. close: no request can follow on the connection."""

    status: int = 200
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False

    def encode(self, connection: str = "", body: bool = True) -> bytes:
        """The bytes of it. connection: what the header of that name says. body: False as the answer to HEAD."""
        if self.status == 200 and not connection:
            return b"HTTP/1.1 200 OK\r\n%bContent-Length: 0\r\n\r\n" % _stamp(int(time.time()))
        text = self.text.encode(errors="replace")
        fields = {"Content-Type": "text/plain"} if text else {}
        fields |= {"Content-Length": str(len(text)), **self.headers}
        fields |= {"Connection": connection} if connection else {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode("latin-1", errors="replace")
        status = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n".encode()
        return b"".join((status, _stamp(int(time.time())), lines, b"\r\n", text if body else b""))


@lru_cache(maxsize=1)
def _stamp(second: int) -> bytes:
    """The fields that every answer has."""
    return f"Server: btfeed\r\nDate: {formatdate(second, usegmt=True)}\r\n".encode()


class Client(Protocol):
    """Where a request comes from. peer: its address."""

    loop: asyncio.AbstractEventLoop
    peer: str

    def read_on(self) -> None:
        """There is room for more of the body."""

    def write(self, data: bytes) -> None: ...


class Request:
    """A request whose header is here, and its body as far as it has come.

    path        of the target, decoded
    version     "1.0" or "1.1"
    headers     names in lower case; several fields of one name are joined by commas
    length      of the body, where the header tells; 0 where there is none
    size        of the body, as far as it is here
    whole       all of it is here
    keep_alive  the client would send more on this connection
    """

    __slots__ = (
        "_client", "_discarded", "_error", "_limit", "_parts", "_waiter",
        "headers", "keep_alive", "length", "method", "path", "size", "version", "whole",
    )  # fmt: skip

    def __init__(
        self, client: Client, method: str, path: bytes, version: str, headers: dict[bytes, bytes], keep_alive: bool
    ) -> None:
        self.method = method
        self.path = path
        self.version = version
        self.headers = headers
        self.keep_alive = keep_alive
        chunked = b"transfer-encoding" in headers
        self.length = None if chunked else int(headers.get(b"content-length", 0))
        self.size = 0
        self.whole = False
        self._client = client
        self._parts: list[bytes | bytearray] = []
        self._limit = READ_AHEAD
        self._discarded = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._client.peer

    async def within(self, limit: int) -> bool:
        """Wait until all of the body is here, or more than `limit` bytes of it: True if it is not longer.

        Raises Incomplete, or ConnectionError where the client went away.
        """
        self._limit = limit
        if not self.whole and self.size <= limit and not self._error:
            self._waiter = self._client.loop.create_future()
            self._client.read_on()
            await self._waiter
        if self._error:
            raise self._error
        return self.size <= limit

    def take_body(self) -> bytes:
        """What is here of it; it is not kept here."""
        parts, self._parts = self._parts, []
        if len(parts) == 1 and isinstance(parts[0], bytes):
            return parts[0]
        return b"".join(parts)

    async def discard(self) -> None:
        """Let go of the body, and of what comes of it until its end. Raises as `within` does."""
        self._discarded = True
        self._parts.clear()
        await self.within(sys.maxsize)

    def go_on(self) -> None:
        """Tell a client that waits with its body (Expect: 100-continue)."""
        self._client.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # For the connection

    @property
    def ahead(self) -> bool:
        """More is here than was asked for."""
        return self.size > self._limit

    @property
    def missing(self) -> int:
        """Bytes that are known to be of this body, and not yet here."""
        return self.length - self.size if self.length else 0

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if self._discarded:
            return
        if len(part) >= SMALL_PART:
            self._parts.append(part)
        elif self._parts and isinstance(self._parts[-1], bytearray):
            self._parts[-1] += part
        else:
            self._parts.append(bytearray(part))
        if self.size > self._limit:
            self._wake()

    def end(self) -> None:
        self.whole = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """The rest of the body will not come."""
        self._error = error
        self._parts.clear()  # once raised, the error keeps this request for the garbage collector
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


def check(version: str, headers: Mapping[bytes, bytes]) -> None:
    """What llhttp lets pass. Raises BadHttp."""
    if version not in ("1.0", "1.1"):
        raise BadHttp(f"HTTP/{version} is not known here")
    host = headers.get(b"host")
    if (host is None and version == "1.1") or b"," in (host or b""):  # several were joined
        raise BadHttp("a request has one Host")
    coding = headers.get(b"transfer-encoding", b"chunked").lower().rpartition(b",")[2]
    if coding.strip() != b"chunked":
        raise BadHttp("Transfer-Encoding does not end with chunked")


def path_of(target: bytes, method: str) -> bytes:
    """The path of a request's target, decoded. Raises BadHttp."""
    if target == b"/":
        return target
    if not target.isascii():
        raise BadHttp("the target is not ASCII")
    if target.startswith(b"/"):
        return unquote_to_bytes(target.partition(b"?")[0].partition(b"#")[0])
    if method == "CONNECT":  # names no path
        return b"/"
    if method == "OPTIONS" and target == b"*":
        return target
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        url = None
    if url is None or not url.host:
        raise BadHttp("the target is neither a path nor a url")
    return unquote_to_bytes(url.path or b"/")
