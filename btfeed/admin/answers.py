"""Answers of the admin listener that several of its routes give, and what they check in a query."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from aiohttp import web

from btfeed.telemetry.printable import printable

NOT_KEPT = {"Cache-Control": "no-store"}
"""Headers of an answer that is out of date in a moment."""


def as_json(shown: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(shown), content_type="application/json", headers=NOT_KEPT)


def as_text(status: int, message: str) -> web.Response:
    """A message for a terminal, in one line."""
    return web.Response(status=status, text=printable(message) + "\n")


def rounded(value: float | None) -> float | None:
    """A figure in JSON."""
    return None if value is None else round(value, 3)


def is_number(text: str) -> bool:
    """Whether a parameter is a number from 0 on, in digits, that SQLite can hold."""
    return text.isascii() and text.isdecimal() and len(text) < 20


@asynccontextmanager
async def stream(request: web.Request, content_type: str) -> AsyncIterator[web.StreamResponse]:
    """A response that is written to in the block, and ended after it. A reader that has gone ends the block, and so does a
    TimeoutError, after which a reader that takes nothing is cut off."""
    response = web.StreamResponse(headers={"Content-Type": content_type, **NOT_KEPT})
    await response.prepare(request)
    try:
        yield response
    except TimeoutError:
        if request.transport:
            request.transport.abort()
    except ConnectionError:
        pass
    with suppress(ConnectionError):
        await response.write_eof()
