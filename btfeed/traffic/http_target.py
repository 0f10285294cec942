"""Sends posts to a URL as AppMon does. Commands import this only when they do so, because aiohttp is slow to import."""

import asyncio
import base64
import ssl
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

import aiohttp
import structlog

from btfeed.traffic.sending import Outcome
from sinks.shared.final_response import FinalResponse
from sinks.shared.reasons import explain, one_line

log = structlog.get_logger()

APPMON_TIMEOUT = 10.0
"""How long AppMon waits for a connection, and for data of an answer, in seconds."""
EXCHANGE_TIMEOUT = 300.0
"""Seconds for a post and its answer together. A server may send a little all the time, and never end."""
MAX_REASON_LENGTH = 200
"""Characters of an answer's body that are kept as the reason."""
MAX_ANSWER_BYTES = 2**16
"""Bytes of an answer's body that are read. After a longer one, the connection is closed."""


class HttpTarget:
    """Posts to a URL as AppMon's client does: kept-alive connections, octet-stream, preemptive Basic auth, no redirects.

    authorization: a bearer token, or name and password for Basic auth. Credentials in the URL take its place.
    """

    measures_latency = True

    def __init__(
        self,
        url: str,
        *,
        connections: int = 1,
        authorization: str | tuple[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = APPMON_TIMEOUT,
    ) -> None:
        self._url, in_url = _without_credentials(url)
        self._connections = connections
        self._timeout = timeout
        self._tls: ssl.SSLContext | bool = tls or True
        self._own_headers = {}
        if authorization := in_url or authorization:
            self._own_headers["Authorization"] = _authorization(authorization)
        self._logged: set[type[Exception]] = set()
        self._answered = False

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=EXCHANGE_TIMEOUT, connect=self._timeout, sock_read=self._timeout),
            skip_auto_headers=["Accept-Encoding"],
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            response_class=FinalResponse,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, body: bytes, headers: dict[str, str] | None = None) -> Outcome:
        """Send a post. Whatever fails is its outcome. headers: in addition to those of each post."""
        sent = {"Content-Type": "application/octet-stream", **(headers or {}), **self._own_headers}
        try:
            return await self._send(body, sent)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Outcome(None, printable(self._describe(error)), sent=False)
        except (aiohttp.ClientError, TimeoutError) as error:
            return Outcome(None, printable(self._describe(error)))
        except Exception as error:
            if type(error) not in self._logged:
                self._logged.add(type(error))
                log.exception("bug in sending a post; its outcome is unknown")
            return Outcome(None, printable(f"bug: {type(error).__name__}: {error}"))

    async def _send(self, body: bytes, headers: dict[str, str]) -> Outcome:
        async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
            self._answered = True
            text = printable(one_line(await self._text(response)))
        status = printable(f"{response.status} {response.reason or ''}")
        return Outcome(response.status, f"{status}: {text}" if text else status)

    async def _text(self, response: aiohttp.ClientResponse) -> str:
        """The start of the answer's body. The status tells the outcome: a body that is broken or late changes nothing."""
        body = b""
        with suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(self._timeout):
                while len(body) < MAX_ANSWER_BYTES and (part := await response.content.read(MAX_ANSWER_BYTES)):
                    body += part
        if not response.content.at_eof():
            response.close()
        return body.decode(errors="replace")

    def _describe(self, error: Exception) -> str:
        """Why there is no answer, in words."""
        match error:
            case aiohttp.ClientConnectorCertificateError():
                fault = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
                return f"certificate of {error.host}:{error.port} is not trusted: {fault}; see --ca and --insecure"
            case aiohttp.ClientConnectorSSLError():
                return f"no TLS with {error.host}:{error.port}: {explain(error.os_error)}"
            case aiohttp.ClientConnectorError():
                return f"cannot connect to {error.host}:{error.port}: {explain(error.os_error)}"
            case aiohttp.ConnectionTimeoutError():
                return f"cannot connect within {self._timeout:g} s"
            case aiohttp.ServerTimeoutError():
                return f"no answer within {self._timeout:g} s"
            case TimeoutError():
                return f"no complete answer within {EXCHANGE_TIMEOUT:g} s"
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
                return f"connection lost before the answer{self._lost_hint()}"
        return f"no valid HTTP answer: {error}"

    def _lost_hint(self) -> str:
        """What may be wrong if the server closed the connection before it ever answered."""
        if self._answered:
            return ""
        if self._url.startswith("https:"):
            return "; does the server ask for a client certificate (--certificate)? Its own log says more"
        return "; does it speak TLS (https://)? Its own log says more"


def _authorization(credentials: str | tuple[str, str]) -> str:
    if isinstance(credentials, str):
        return f"Bearer {credentials}"
    return f"Basic {base64.b64encode(':'.join(credentials).encode(errors='surrogateescape')).decode()}"


def _without_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL without credentials, and those that it had. aiohttp sends no post if they are in both URL and header."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, None
    user, password = (unquote(part, errors="surrogateescape") for part in (parts.username, parts.password or ""))
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), (user, password)


def printable(text: str) -> str:
    """The start of what a server sent, in one line and without control characters."""
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in " ".join(text.split()))
    return shown[:MAX_REASON_LENGTH]
