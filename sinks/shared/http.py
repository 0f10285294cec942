"""HTTP POST for sinks, through the environment's proxy, with errors that say whether the request may have been processed.

Replies come without the sink's secrets, so that they can be quoted in errors.
"""

import asyncio
import base64
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from pydantic import AfterValidator
from yarl import URL

from sinks.base import Misconfigured, OutcomeUnknown, Unavailable
from sinks.settings import URL_PATTERN
from sinks.shared.clock import SYSTEM_CLOCK, Clock
from sinks.shared.final_response import FinalResponse
from sinks.shared.reasons import explain, one_line
from sinks.shared.redaction import Redactor
from sinks.shared.tls import sink_context

CONNECT_TIMEOUT = 10.0
"""Seconds to connect, unless the timeout of the whole request is shorter."""
MAX_REPLY_SIZE = 16 * 2**20
"""Bytes of a reply. A longer one counts as a broken connection."""
MAX_QUOTE_LENGTH = 300
"""Characters that are quoted of a message from another system."""
MAX_RETRY_AFTER = 86_400.0
"""Seconds. A longer Retry-After counts as this."""
_INVALID_URL = "invalid URL: check the configured one, and the proxy's in the environment"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """A reply to a request. received: seconds since the epoch."""

    status: int
    headers: Mapping[str, str]
    body: T
    received: float

    @property
    def retry_after(self) -> float:
        """Seconds that the server asks to wait, as a number or a date. Dates are compared with the reply's own Date."""
        value = self.headers.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            return min(float(value), MAX_RETRY_AFTER)
        until, sent = _date(value), _date(self.headers.get("Date", ""))
        if until is None:
            return 0.0
        return min(max(0.0, until - (self.received if sent is None else sent)), MAX_RETRY_AFTER)


class HttpClient:
    """Connections to one server. `redactor` removes secrets from its replies."""

    def __init__(self, timeout: float, ca: str | None, redactor: Redactor, clock: Clock = SYSTEM_CLOCK) -> None:
        self.redactor = redactor
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_TIMEOUT, timeout))
        self._ca = ca
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, str] = {}

    def open(self) -> None:
        """Prepare for requests; sends nothing. Does nothing if it is open. Raises Misconfigured."""
        if self._session:
            return
        self._proxies = urllib.request.getproxies()
        connector = aiohttp.TCPConnector(ssl=sink_context(self._ca), limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "btfeed"},
            response_class=FinalResponse,
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session:
            session, self._session = self._session, None
            await session.close()

    async def post(
        self,
        url: str,
        data: bytes | aiohttp.FormData,
        headers: Mapping[str, str],
        redact: bool = True,
        cancelled_is_unknown: bool = False,
    ) -> Reply[bytes]:
        """Post `data` and return the reply, without secrets if `redact`.

        Raises Unavailable if nothing was sent, OutcomeUnknown if the request may have been processed, and Misconfigured
        if it can't succeed. cancelled_is_unknown: if it is cancelled after `data` was sent, it raises OutcomeUnknown, too.
        """
        assert self._session
        body = BytesIO(data) if isinstance(data, bytes) else data  # aiohttp warns of long ones that are bytes
        try:
            proxy = self._proxy(url)
        except ValueError as error:
            raise Misconfigured(_INVALID_URL) from error
        proxy["headers"] = {**headers, **proxy.get("headers", {})}
        try:
            async with self._session.post(url, data=body, allow_redirects=False, **proxy) as response:
                content = await _read(response)
                reply = Reply(response.status, response.headers, content, self._clock.time())
                return replace(reply, body=self.redactor.body(content)) if redact else reply
        except (aiohttp.ClientError, TimeoutError) as error:
            raise request_error(error) from error
        except asyncio.CancelledError:
            if cancelled_is_unknown and isinstance(body, BytesIO) and body.tell():  # aiohttp has read some of it
                raise OutcomeUnknown("cut off before the reply was complete") from None
            raise

    def _proxy(self, url: str) -> dict[str, Any]:
        """aiohttp's arguments for the proxy. Its own `trust_env` would also read credentials for `url` from .netrc.

        Raises ValueError if the proxy's URL is not one.
        """
        target = URL(url)
        if urllib.request.proxy_bypass(target.host or "") or target.scheme not in self._proxies:
            return {}
        proxy = URL(self._proxies[target.scheme])
        if proxy.scheme not in ("http", "https") or not proxy.host:
            raise ValueError("not a URL of an HTTP proxy")
        if proxy.user is None:
            return {"proxy": proxy}
        authorization = "Basic " + basic_credentials(proxy.user, proxy.password or "")
        tunnelled = "proxy_headers" if target.scheme == "https" else "headers"
        return {"proxy": proxy.with_user(None), tunnelled: {"Proxy-Authorization": authorization}}


def check_service_url(url: str) -> str:
    """`url` if it is an HTTP URL without credentials or a query, so that it can be logged. Raises ValueError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("invalid URL: write it like https://HOST:PORT/PATH") from None
    if parts.scheme not in ("https", "http") or not host:
        raise ValueError('invalid URL: start it with "https://" or "http://", and a host')
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("invalid URL: only scheme, host, port and path are allowed; write credentials in their own keys")
    return url


ServiceUrl = Annotated[str, AfterValidator(check_service_url), URL_PATTERN]
"""An HTTP URL in the configuration."""


def basic_credentials(username: str, password: str) -> str:
    """The value of a Basic Authorization header."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_REPLY_SIZE:
            raise aiohttp.ClientPayloadError("the reply is too long")
    return bytes(body)


def request_error(error: Exception) -> Unavailable | Misconfigured:
    """What a failed request says of its outcome. Quotes nothing that a proxy says: it may repeat its credentials."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        fault = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
        return Misconfigured(f"the server's certificate is not trusted: {fault}; add its issuer's certificate with `ca`")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        kind = Misconfigured if error.status in (401, 403, 407) else Unavailable
        return kind(f"the proxy answers with HTTP {error.status}")
    if isinstance(error, aiohttp.InvalidURL):
        return Misconfigured(_INVALID_URL)
    if isinstance(error, aiohttp.ClientConnectorError):
        https = "; does it speak https?" if isinstance(error, aiohttp.ClientConnectorSSLError) else ""
        return Unavailable(f"can't connect to {error.host}:{error.port}: {explain(error.os_error)}{https}")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Unavailable(f"can't connect in time: {error}")
    if isinstance(error, TimeoutError):
        return OutcomeUnknown("no reply in time")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return OutcomeUnknown("the connection broke before the reply was complete: the server closed it")
    fault = explain(error) if isinstance(error, OSError) else one_line(str(error))
    return OutcomeUnknown(f"the connection broke before the reply was complete: {fault or type(error).__name__}")


def describe_reply(reply: Reply[bytes]) -> str:
    """The reply's status, and the message in its body if there is one."""
    return with_quote(f"HTTP {reply.status}", error_message(decode_json(reply.body)) or reply.body.decode(errors="replace"))


def error_message(answer: Any) -> str:
    """The message in an error object of Dynatrace, of OAuth or of a schema registry, or an empty string."""
    if not isinstance(answer, dict):
        return ""
    error = answer.get("error")
    if not isinstance(error, dict):
        texts = [answer.get("error_description"), error, answer.get("message")]
        return next((text for text in texts if isinstance(text, str) and text), "")
    violations = error.get("constraintViolations")
    listed = [item for item in violations if isinstance(item, dict)] if isinstance(violations, list) else []
    parts = [error.get("message"), *(f"{item.get('path')}: {item.get('message')}" for item in listed)]
    return "; ".join(part for part in parts if isinstance(part, str) and part)


def decode_json(body: bytes) -> Any:
    """The JSON value in `body`, or None if it isn't JSON."""
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None


def with_quote(what: str, text: str) -> str:
    """`what`, such as HTTP 404, and what the other system says of it, if anything. Many repeat the status first."""
    quote = re.sub(rf"^{re.escape(what.rpartition(' ')[2])}[:\s]+", "", shorten(text))
    return f"{what}: {quote}" if quote else what


def shorten(text: str) -> str:
    """`text` as `one_line` gives it, cut to MAX_QUOTE_LENGTH."""
    return one_line(text)[:MAX_QUOTE_LENGTH]


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
