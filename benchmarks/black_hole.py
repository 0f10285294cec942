"""A far end that takes everything at once, and keeps only the number of records.

    python -m benchmarks.black_hole PROTOCOL

It prints its address, answers each line of stdin with the number of records so far, and ends with stdin. PROTOCOL is one of
receiver (of posts), bizevents (Dynatrace's ingest API), elasticsearch and kafka (kafka_hole.py). Each is one protocol on
uvloop, and uses less CPU than a sender.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import cast

import uvloop

from benchmarks.kafka_hole import KafkaHole

MARK = b'"event.id":'
"""Occurs once in each record."""

Answer = tuple[str, bytes, int]
"""Status, body, and how many records the request had."""


def _receiver(head: bytes, body: bytes) -> Answer:
    return "200 OK", b"", 1


def _bizevents(head: bytes, body: bytes) -> Answer:
    return "202 Accepted", b"", body.count(MARK)


def _elasticsearch(head: bytes, body: bytes) -> Answer:
    """Without security and templates. It accepts any template, and every document."""
    method, path, _ = head.split(b" ", 2)
    if path.startswith(b"/_bulk"):
        number = body.count(MARK)
        items = b",".join([b'{"create":{"status":201}}'] * number)
        return "200 OK", b'{"errors":false,"items":[' + items + b"]}", number
    if method == b"put":
        return "200 OK", b'{"acknowledged":true}', 0
    return "404 Not Found", b"{}", 0


class HttpHole(asyncio.Protocol):
    """One connection. Requests have a Content-Length, and are not pipelined."""

    def __init__(self, answer: Callable[[bytes, bytes], Answer], note: Callable[[int], None]) -> None:
        self._answer = answer
        self._note = note
        self._buffer = bytearray()
        self._needed = 0  # bytes of the request, once its header is there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass

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
        status, said, number = self._answer(self._head, body)
        self._note(number)
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Elastic-Product: Elasticsearch\r\n"
        self._transport.write(f"{head}Content-Length: {len(said)}\r\n\r\n".encode() + said)


def _content_length(head: bytes) -> int:
    """head: that of a request, in lower case."""
    _, found, rest = head.partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


HTTP = {"receiver": _receiver, "bizevents": _bizevents, "elasticsearch": _elasticsearch}


class Taken:
    """The number of records over all connections."""

    def __init__(self) -> None:
        self.number = 0

    def note(self, number: int) -> None:
        self.number += number


async def _serve(speaks: str) -> None:
    taken, loop = Taken(), asyncio.get_running_loop()

    def connection() -> asyncio.Protocol:
        return KafkaHole(taken.note) if speaks == "kafka" else HttpHole(HTTP[speaks], taken.note)

    server = await loop.create_server(connection, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(address if speaks == "kafka" else f"http://{address}", flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(taken.number, flush=True)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
