"""The end of listening."""

import socket
from contextlib import ExitStack

from btfeed.http import listener
from btfeed.http.limits import Limits
from btfeed.http.request import Request
from btfeed.http.response import Response
from btfeed.http.server import HttpServer
from btfeed.telemetry.metrics import Metrics


async def test_all_that_wait_at_the_end_of_listening_are_accepted() -> None:
    """However many there are: a connection that is not accepted then would be refused, and its post lost."""

    async def answer(request: Request) -> Response:
        return Response()

    limits = Limits(header_timeout=5.0, write_timeout=5.0, idle_timeout=5.0, max_connections=500)
    server = HttpServer(answer, Metrics(), limits)
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
