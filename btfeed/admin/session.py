"""Sessions of browsers: POST /login with the token gives a cookie that stands for it. A browser can't send the token itself
with a page, nor with server-sent events.

The cookie has the time when it ends and a signature by the token, so that nothing has to be kept: it outlives a restart of
the server, and ends when the token changes. Scripts can't read it (HttpOnly), and a browser sends it only with requests of
the server's own pages (SameSite=Strict).
"""

import hashlib
import hmac

import msgspec
from aiohttp import web

from sinks.shared.clock import Clock

LIFETIME = 12 * 3_600
"""Seconds that a session lasts."""


def cookie_name(request: web.Request) -> str:
    """Browsers do not tell the ports of a host apart: each gets a cookie of its own."""
    return f"btfeed_session_{request.url.port or 80}"


def issue(token: bytes, clock: Clock) -> str:
    """The value of a cookie."""
    end = str(round(clock.time()) + LIFETIME)
    return f"{end}.{_signature(token, end)}"


def is_valid(value: str, token: bytes, clock: Clock) -> bool:
    end, _, signature = value.partition(".")
    genuine = hmac.compare_digest(signature.encode("utf-8", "surrogateescape"), _signature(token, end).encode())
    return genuine and clock.time() < int(end)


def _signature(token: bytes, end: str) -> str:
    return hmac.new(token, b"btfeed session until " + end.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def set_cookie(request: web.Request, response: web.StreamResponse, token: bytes, clock: Clock) -> None:
    """Begin a session."""
    tls = request.headers.get("X-Forwarded-Proto", request.scheme) == "https"
    response.set_cookie(
        cookie_name(request), issue(token, clock), max_age=LIFETIME, path="/", httponly=True, samesite="Strict", secure=tls
    )


async def given_token(request: web.Request) -> str:
    """The token sent as JSON or by a form; empty if there is none."""
    if request.content_type == "application/json":
        try:
            found = msgspec.json.decode(await request.read(), type=dict[str, str])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ""
        return found.get("token", "")
    return str((await request.post()).get("token", ""))
