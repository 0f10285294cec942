"""Sends posts to a URL as AppMon does. Commands import this only when they do so, because aiohttp is slow to import."""

import base64
import os
import ssl
from types import TracebackType
from typing import Self

import aiohttp

from btfeed.traffic.sending import Outcome

APPMON_TIMEOUT = 10.0
"""How long AppMon waits for a connection, and for data of an answer, in seconds."""
MAX_REASON_LENGTH = 200
"""Characters of an answer's body that are kept as the reason."""


class HttpTarget:
    """Posts to a URL as AppMon's client does: kept-alive connections, octet-stream, preemptive Basic auth, no redirects."""

    measures_latency = True

    def __init__(
        self,
        url: str,
        *,
        connections: int = 1,
        basic_auth: tuple[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = APPMON_TIMEOUT,
    ) -> None:
        self._url = url
        self._connections = connections
        self._timeout = timeout
        self._tls: ssl.SSLContext | bool = tls or True
        self._headers = {"Content-Type": "application/octet-stream"}
        if basic_auth:
            self._headers["Authorization"] = "Basic " + base64.b64encode(":".join(basic_auth).encode()).decode()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(connect=self._timeout, sock_read=self._timeout),
            headers=self._headers,
            skip_auto_headers=["Accept-Encoding"],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, body: bytes, headers: dict[str, str] | None = None) -> Outcome:
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                text = " ".join((await response.text(errors="replace")).split())[:MAX_REASON_LENGTH]
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Outcome(None, self._describe(error), sent=False)
        except (aiohttp.ClientError, TimeoutError) as error:
            return Outcome(None, self._describe(error))
        status = f"{response.status} {response.reason}"
        return Outcome(response.status, f"{status}: {text}" if text else status)

    def _describe(self, error: Exception) -> str:
        """Why there is no answer, in words."""
        match error:
            case aiohttp.ClientConnectorCertificateError():
                reason = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
                return f"certificate of {error.host}:{error.port} is not trusted: {reason}; see --ca and --insecure"
            case aiohttp.ClientConnectorError(os_error=ssl.SSLError(reason=reason)):
                return f"no TLS with {error.host}:{error.port}: {str(reason).lower().replace('_', ' ')}"
            case aiohttp.ClientConnectorError(os_error=os_error):
                return f"cannot connect to {error.host}:{error.port}: {explain(os_error)}"
            case aiohttp.ConnectionTimeoutError():
                return f"cannot connect within {self._timeout:g} s"
            case TimeoutError():
                return f"no answer within {self._timeout:g} s"
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
                return "connection lost before the answer"
        return f"no valid HTTP answer: {error}"


def explain(error: OSError) -> str:
    """The system's own text: that of asyncio repeats the address."""
    if error.errno is None or error.errno <= 0:  # name resolution has negative numbers of its own
        return error.strerror or str(error)
    return os.strerror(error.errno)
