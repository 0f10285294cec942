"""HTTP POST for sinks: what a failed request says of its outcome, the environment's proxy, no secret in any message."""

import base64
import re
import ssl
import time
import urllib.request
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from sinks.base import Misconfigured, OutcomeUnknown, Unavailable

CONNECT_TIMEOUT = 10.0
"""Seconds to connect, or the time-out of the whole request where that is shorter."""
MAX_REPLY = 16 * 2**20
"""Bytes of a reply; a longer one is taken for none."""
MAX_MESSAGE = 300
"""Characters of a message from the far end that are told."""
LONGEST_WAIT = 86_400.0
"""Seconds that a Retry-After may ask for; a longer one counts as this."""


class Client:
    """Connections to one far end. `secrets` are struck out of all that it says."""

    def __init__(self, timeout: float, ca: str | None, secrets: Sequence[str]) -> None:
        self.secrets = list(secrets)
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_TIMEOUT, timeout))
        self._ca = ca
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, str] = {}

    def open(self) -> None:
        """Be ready for requests. Raises Misconfigured."""
        if self._session:
            return
        self._proxies = urllib.request.getproxies()
        connector = aiohttp.TCPConnector(ssl=trusting(self._ca), limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "btfeed"},
        )

    async def close(self) -> None:
        if self._session:
            session, self._session = self._session, None
            await session.close()

    async def post(
        self, url: str, data: bytes | aiohttp.FormData, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the reply. Raises Unavailable where nothing was sent, OutcomeUnknown where nobody
        knows, Misconfigured where it can't succeed."""
        assert self._session
        body = BytesIO(data) if isinstance(data, bytes) else data  # aiohttp takes long ones in no other way
        proxy = self._proxy(url)
        proxy["headers"] = {**headers, **proxy.get("headers", {})}
        try:
            async with self._session.post(url, data=body, allow_redirects=False, **proxy) as response:
                return response.status, response.headers, self._struck_out(await _read(response))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise failure(error) from error

    def _proxy(self, url: str) -> dict[str, Any]:
        """aiohttp's own way to the environment's proxies would read .netrc too, which knows nothing of our tokens."""
        target = URL(url)
        if urllib.request.proxy_bypass(target.host or "") or target.scheme not in self._proxies:
            return {}
        proxy = URL(self._proxies[target.scheme])
        if proxy.user is None:
            return {"proxy": proxy}
        pair = f"{proxy.user}:{proxy.password or ''}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        tunnelled = "proxy_headers" if target.scheme == "https" else "headers"
        return {"proxy": proxy.with_user(None), tunnelled: {"Proxy-Authorization": authorization}}

    def _struck_out(self, body: bytes) -> bytes:
        for secret in self.secrets:
            body = body.replace(secret.encode(), b"***")
        return body


def web_url(url: str) -> str:
    """`url`, if it is one that may be shown: without credentials in it. Raises ValueError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is no url") from None
    if parts.scheme not in ("https", "http") or not host:
        raise ValueError('a url starts with "https://" and a host')
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("only scheme, host, port and path belong in this url")
    return url


def trusting(ca: str | None) -> ssl.SSLContext:
    """The system's certificates, and those in the PEM file `ca`. Raises Misconfigured."""
    context = ssl.create_default_context()
    try:
        if ca:
            context.load_verify_locations(ca)
    except OSError as error:  # ssl.SSLError is one
        raise Misconfigured(f"can't take certificates from {ca}: {error}") from error
    return context


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_REPLY:
            raise aiohttp.ClientPayloadError("the reply has no end")
    return bytes(body)


def failure(error: Exception) -> Unavailable | Misconfigured:
    """What a request that had no reply says of its outcome. No message of a proxy's is told: it may hold credentials."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Misconfigured(
            f"its certificate is not trusted: {error.certificate_error}; `ca` names a file of others to trust"
        )
    if isinstance(error, aiohttp.ClientHttpProxyError):
        kind = Misconfigured if error.status in (401, 403, 407) else Unavailable
        return kind(f"the proxy answers {error.status}")
    if isinstance(error, aiohttp.InvalidURL):
        return Misconfigured("a url that is none, or the environment's proxy is none")
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return Unavailable(f"no connection: {error}")
    if isinstance(error, TimeoutError):
        return OutcomeUnknown("no reply in time")
    return OutcomeUnknown(f"the connection broke before the reply was here: {type(error).__name__}")


def explain(status: int, body: bytes) -> str:
    """A status, and what the body says of it in words."""
    said = message(decoded(body)) or body.decode(errors="replace")
    return f"HTTP {status}: {short(said)}" if said.strip() else f"HTTP {status}"


def message(answer: Any) -> str:
    """Of Dynatrace's error object, or of OAuth's; empty where it is neither."""
    if not isinstance(answer, dict):
        return ""
    error = answer.get("error")
    if not isinstance(error, dict):
        said = [answer.get("error_description"), error, answer.get("message")]
        return next((text for text in said if isinstance(text, str) and text), "")
    violations = error.get("constraintViolations")
    listed = [item for item in violations if isinstance(item, dict)] if isinstance(violations, list) else []
    parts = [error.get("message"), *(f"{item.get('path')}: {item.get('message')}" for item in listed)]
    return "; ".join(part for part in parts if isinstance(part, str) and part)


def decoded(body: bytes) -> Any:
    """What is in `body`, None where it is no JSON."""
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None


def short(text: str) -> str:
    return " ".join(text.split())[:MAX_MESSAGE]


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the far end asks to wait: a number, or a date, by its own clock where it shows one."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return min(float(value), LONGEST_WAIT)
    until, now = _date(value), _date(headers.get("Date", ""))
    if until is None:
        return 0.0
    return min(max(0.0, until - (time.time() if now is None else now)), LONGEST_WAIT)


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
