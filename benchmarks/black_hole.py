"""A far end that takes everything at once and keeps nothing but the number of records: what it costs to reach one.

    python -m benchmarks.black_hole SPEAKS     prints its url, works until stdin ends

SPEAKS says how it answers: as the receiver of posts, as Dynatrace's ingest API, or as Elasticsearch's `_bulk`. GET /taken
answers how many records came. It is one protocol on uvloop, so that it is cheaper than whoever sends to it.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import cast

import uvloop

MARK = b'"event.id":'
"""Stands once in each record."""


def _receiver(body: bytes) -> tuple[str, bytes, int]:
    return "200 OK", b"", 1


def _bizevents(body: bytes) -> tuple[str, bytes, int]:
    return "202 Accepted", b"", body.count(MARK)


def _elasticsearch(body: bytes) -> tuple[str, bytes, int]:
    number = body.count(MARK)
    items = b",".join([b'{"create":{"_index":"bench","status":201}}'] * number)
    return "200 OK", b'{"took":1,"errors":false,"items":[' + items + b"]}", number


LANGUAGES: dict[str, Callable[[bytes], tuple[str, bytes, int]]] = {
    "receiver": _receiver,
    "bizevents": _bizevents,
    "elasticsearch": _elasticsearch,
}
"""A request's body -> status, answer, how many records it held."""


class BlackHole(asyncio.Protocol):
    """One connection. Requests have a Content-Length; one follows the answer to the other."""

    taken = 0  # by all connections

    def __init__(self, answer: Callable[[bytes], tuple[str, bytes, int]]) -> None:
        self._answer = answer
        self._buffer = bytearray()
        self._needed = 0  # bytes of the request, once its header is there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # which uvloop's only resembles

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = bytes(self._buffer[:end]).lower()
            self._start = end + 4
            self._needed = self._start + _content_length(self._head)
        if len(self._buffer) >= self._needed:
            body = bytes(memoryview(self._buffer)[self._start : self._needed])
            del self._buffer[: self._needed]
            self._needed = 0
            self._reply(body)

    def _reply(self, body: bytes) -> None:
        if self._head.startswith((b"get ", b"head ")):
            status, said, number = "200 OK", b"%d" % BlackHole.taken, 0
        else:
            status, said, number = self._answer(body)
        BlackHole.taken += number
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Elastic-Product: Elasticsearch\r\n"
        self._transport.write(f"{head}Content-Length: {len(said)}\r\n\r\n".encode() + said)


def _content_length(head: bytes) -> int:
    """`head`: a request's or answer's, in lower case."""
    _, found, rest = head.partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


async def _serve(answer: Callable[[bytes], tuple[str, bytes, int]]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: BlackHole(answer), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_serve(LANGUAGES[sys.argv[1]]))
