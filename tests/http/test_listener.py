"""Accepting connections, and the end of listening."""

import socket
import struct
from contextlib import ExitStack

from structlog.testing import capture_logs

from btfeed.http import listener
from btfeed.http.limits import Limits
from btfeed.http.request import Request
from btfeed.http.response import Response
from btfeed.http.server import HttpServer
from btfeed.telemetry.metrics import Metrics
from tests.support.harness import until_async

LIMITS = Limits(header_timeout=5.0, write_timeout=5.0, idle_timeout=5.0, max_connections=500)


async def _answer(request: Request) -> Response:
    return Response()


async def test_all_that_wait_at_the_end_of_listening_are_accepted() -> None:
    """However many there are: a connection that is not accepted then would be refused, and its post lost."""
    server = HttpServer(_answer, Metrics(), LIMITS)
    listening = socket.create_server(("127.0.0.1", 0), backlog=500)
    address = listening.getsockname()
    await server.listen([listening])
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(3 * listener.AT_ONCE)]
        for client in clients:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        await server.stop(5.0, patience=0.0)
        server.close()
        assert {client.recv(100)[:15] for client in clients} == {b"HTTP/1.1 200 OK"}


async def test_a_client_that_is_gone_when_it_is_accepted_is_named() -> None:
    """Its socket does not know any more who it was."""
    server = HttpServer(_answer, Metrics(), LIMITS)
    listening = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listening.getsockname()) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
    with capture_logs() as logged:
        await server.listen([listening])
        await until_async(lambda: [line for line in logged if line["event"] == "post lost"], "lost")
        await server.stop(5.0, patience=0.0)
        server.close()
    assert [line["peer"] for line in logged if line["event"] == "post lost"] == ["127.0.0.1"]
