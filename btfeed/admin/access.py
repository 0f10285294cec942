"""Who may ask what of the admin listener.

With `admin.token`, every request needs it, or the cookie of a session that was begun with it (session.py), except those of
probes to /healthz and /readyz, and the page, which then shows nothing but where to sign in. Without a token, anyone who can
connect may read figures, and only this machine may change anything, or see records, dead letters and the configuration. A
request comes from this machine if its peer's address is a loopback one and no proxy passed it on.

A browser on this machine is not its user: the page that it shows comes from elsewhere. So, with or without a token, a
request that changes something must be JSON, which a page can't send to another server without asking first, and a page of
another origin is refused. Without a token, the Host header has to be an IP address, `localhost` or the configured host.
This refuses names that were pointed at this machine's address later (DNS rebinding).
"""

import hmac
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

import structlog
from aiohttp import hdrs, web

from btfeed.address import host_and_port
from btfeed.admin import session
from btfeed.admin.settings import AdminSettings
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.warnings import SummedWarnings
from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN = frozenset({"/healthz", "/readyz"})
"""Paths that need no token."""
PAGE = frozenset({"/", "/page.css", "/page.js"})
"""Paths of the page itself. They answer without a token, too: see `trusted`."""
LOGIN, LOGOUT = "/login", "/logout"
"""Paths where a session begins and ends."""
TAP, RECORDS, LETTERS = "/tap", "/records", "/dead-letters"
"""Paths that show records."""
PRIVATE = frozenset({TAP, RECORDS, LETTERS, f"{LETTERS}/export"})
MARK = ("X-Btfeed", "admin")
"""The header by which commands tell btfeed's answers from those of other servers."""
_TRUSTED = web.RequestKey("trusted", bool)
_PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
"""Headers of requests that a proxy passed on."""


class Access:
    """Decides whether a request may be answered; refusals are counted and logged."""

    def __init__(self, settings: AdminSettings, metrics: Metrics, clock: Clock = SYSTEM_CLOCK) -> None:
        self._metrics = metrics
        self._clock = clock
        self._warnings = SummedWarnings()
        self.reconfigure(settings)

    def reconfigure(self, settings: AdminSettings) -> None:
        """Apply another token from the next request on."""
        self._token = settings.token.get_secret_value().encode() if settings.token else None
        self._host = host_and_port(settings.listen)[0]

    def close(self) -> None:
        self._warnings.close()

    def routes(self) -> list[web.RouteDef]:
        return [web.post(LOGIN, self._login), web.post(LOGOUT, self._logout)]

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._token is not None:
            request[_TRUSTED] = self._has_token(request, self._token)
        else:
            request[_TRUSTED] = self._is_local(request) and self._names_this_machine(request)
        refused = self._refusal(request)
        if refused is None:
            return await handler(request)
        status, reason, message = refused
        self._count(request, reason)
        headers = {"WWW-Authenticate": 'Bearer realm="btfeed"'} if status == 401 else None
        return web.Response(status=status, text=f"{message}\n", headers=headers)

    def _count(self, request: web.Request, reason: str) -> None:
        self._metrics.admin_refused.labels(reason).inc()
        self._warnings.warn("admin request refused", reason, reason=reason, path=request.path, peer=request.remote)

    def _refusal(self, request: web.Request) -> tuple[int, str, str] | None:
        """Status, reason for the metric and message, if the request must not be answered."""
        if self._token is not None and not trusted(request) and request.path not in OPEN | PAGE | {LOGIN}:
            return (
                401,
                "token",
                "send the token of this server, admin.token in its configuration: Authorization: Bearer TOKEN",
            )
        changes = request.method not in ("GET", "HEAD")
        if request.match_info.http_exception or not (changes or request.path in PRIVATE):  # 404, 405, or only reads
            return None
        if self._token is None and not trusted(request):
            return 403, "not_local", "without admin.token, only this machine may do this: set one, or ask from there"
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and urlsplit(origin).netloc != request.host:
            return 403, "origin", "not for web pages of other servers: leave out the header Origin"
        if changes and request.content_type != "application/json" and request.path not in (LOGIN, LOGOUT):
            return 415, "content_type", "send JSON, with Content-Type: application/json"
        return None

    async def _login(self, request: web.Request) -> web.Response:
        """Begin a session. A form is sent back to the page, also if its token is wrong."""
        if self._token is None:
            return web.Response(status=404, text="this server has no token: there is nothing to sign in to\n")
        as_json = request.content_type == "application/json"
        given = (await session.given_token(request)).strip().encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(given, self._token):
            self._count(request, "login")
            if as_json:
                return web.Response(status=401, text="this is not the token of this server\n")
            return web.Response(status=303, headers={"Location": "/?wrong=token"})
        response = web.Response(status=204) if as_json else web.Response(status=303, headers={"Location": "/"})
        session.set_cookie(request, response, self._token, self._clock)
        return response

    async def _logout(self, request: web.Request) -> web.Response:
        as_json = request.content_type == "application/json"
        response = web.Response(status=204) if as_json else web.Response(status=303, headers={"Location": "/"})
        response.del_cookie(session.cookie_name(request), path="/")
        return response

    def _has_token(self, request: web.Request, token: bytes) -> bool:
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer":
            return hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token)
        cookie = request.cookies.get(session.cookie_name(request))
        return cookie is not None and session.is_valid(cookie, token, self._clock)

    @staticmethod
    def _is_local(request: web.Request) -> bool:
        connected = request.transport.get_extra_info("socket") if request.transport else None
        if connected is not None and connected.family == socket.AF_UNIX:  # of a directory that only this user can enter
            return not any(name in request.headers for name in _PASSED_ON)
        with suppress(ValueError):  # no address: the connection is gone
            peer = ip_address((request.remote or "").partition("%")[0])
            peer = getattr(peer, "ipv4_mapped", None) or peer
            return peer.is_loopback and not any(name in request.headers for name in _PASSED_ON)
        return False

    def _names_this_machine(self, request: web.Request) -> bool:
        with suppress(ValueError):
            host = urlsplit(f"//{request.headers.get(hdrs.HOST, '')}").hostname or ""
            if host in ("localhost", self._host.lower()):
                return True
            ip_address(host)
            return True
        return False


def trusted(request: web.Request) -> bool:
    """Whether the request may see private data: it has the token, or no token is set and it comes from this machine."""
    return _TRUSTED in request and request[_TRUSTED]


async def mark(request: web.Request, response: web.StreamResponse) -> None:
    """Say that the answer is btfeed's."""
    response.headers[MARK[0]] = MARK[1]
