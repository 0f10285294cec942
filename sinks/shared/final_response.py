"""A bound on the informational responses, such as `100 Continue`, that may come before the response of an HTTP server.

aiohttp passes over as many as there are. A server that sends them without end would keep a request from its time-out, and
the event loop busy.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp.connector import Connection

MAX_INFORMATIONAL = 20
"""Responses with a status of 1xx before the final one."""


class FinalResponse(aiohttp.ClientResponse):
    """The response class of our sessions. A request raises ClientPayloadError after too many informational responses."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        protocol: Any = connection.protocol
        protocol.read = _at_most(MAX_INFORMATIONAL + 1, protocol.read)
        try:
            return await super().start(connection)
        finally:
            del protocol.read  # the method of its class again


def _at_most(times: int, read: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    left = times

    async def next_message() -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise aiohttp.ClientPayloadError(f"more than {MAX_INFORMATIONAL} informational responses before the final one")
        return await read()

    return next_message
