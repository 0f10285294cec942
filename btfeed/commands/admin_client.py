"""How commands talk to a running server: HTTP to its admin listener, with the token of the configuration.

No proxy is used and no redirect followed: either could give the token to another server.
"""

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from btfeed.address import host_and_port
from sinks.shared.reasons import explain

if TYPE_CHECKING:
    from btfeed.config import Config

TIMEOUT = 10.0
"""Seconds to connect, and for each read of an answer."""
CHANGE_TIMEOUT = 60.0
"""The same for a request that changes something: writes of sinks may take a while to end."""
FROM_OPTION = "--url"
"""Where a URL comes from that is not the configuration's."""
_MARK = ("X-Btfeed", "admin")
"""The header of btfeed's answers, see btfeed/admin/access.py, which is slow to import."""
_NOT_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not to listen on


class AdminError(Exception):
    """There is no answer to use. The message says what to do, and where the server was looked for."""


class NotRunning(AdminError):
    """Nothing answers there."""


class AnotherServer(AdminError):
    """What answers there is not btfeed's admin listener."""


class NotAllowed(AdminError):
    """The token is missing or wrong, or the server must not be asked from here."""


class NotFound(AdminError):
    """The server knows no such path or sink. The message is the server's own."""


class Refused(AdminError):
    """The server can't do it. The message is the server's own."""


class AdminClient:
    """The admin listener at `url`, such as http://127.0.0.1:4322; a path in it is kept as a prefix.

    token  of the server, None if it has none
    place  where the URL comes from, for messages
    tls    for https; None for the system's trusted certificates
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        place: str = FROM_OPTION,
        timeout: float = TIMEOUT,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = timeout
        self._by_option = place == FROM_OPTION
        self.place = f"{parts.netloc.rpartition('@')[2]} ({place})"

    @classmethod
    def configured(cls, config: "Config", timeout: float = TIMEOUT) -> "AdminClient":
        """The admin listener of the server that runs with this configuration."""
        host, port = host_and_port(config.admin.listen)
        host = _EVERY_ADDRESS.get(host, host)
        token = config.admin.token.get_secret_value() if config.admin.token else None
        shown = f"[{host}]" if ":" in host else host
        return cls(f"http://{shown}:{port}", token, place="admin.listen", timeout=timeout)

    def get(self, path: str) -> bytes:
        """The body of the answer. Raises AdminError."""
        with self._answer("GET", path) as response:
            return response.read()

    def status(self) -> bytes:
        """The JSON of /status. Raises AdminError."""
        with self._answer("GET", "/status") as response:
            text = response.read()
            try:
                found = json.loads(text)
            except ValueError:
                found = None
            if not isinstance(found, dict) or not (_is_marked(response) or "sinks" in found):  # it may be an older btfeed
                raise self._another(response)
            return text

    def post(self, path: str, content: Mapping[str, Any]) -> Any:
        """Send JSON, and return the JSON of the answer. Raises AdminError."""
        self._timeout = max(self._timeout, CHANGE_TIMEOUT)
        with self._answer("POST", path, json.dumps(content).encode()) as response:
            return json.loads(response.read())

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of an answer that goes on until one side ends it; they may come at any time. Raises AdminError if there
        is no such answer."""
        with self._answer("GET", path, patient=True) as response, suppress(OSError, HTTPException):
            while line := response.readline():
                yield line

    @contextmanager
    def _answer(self, method: str, path: str, body: bytes | None = None, patient: bool = False) -> Iterator[HTTPResponse]:
        """The answer, if it is a 200; else raises what its status means. patient: the body has all the time it likes."""
        headers = self._headers | ({} if body is None else {"Content-Type": "application/json"})
        try:
            with closing(self._connection()) as connection:
                connection.request(method, self._prefix + path, body, headers)
                socket = connection.sock  # the connection forgets it once it has the header of a last answer
                with closing(connection.getresponse()) as response:
                    if response.status != 200:
                        raise self._error(response)
                    if patient and socket:
                        socket.settimeout(None)
                    yield response
        except TimeoutError:
            raise NotRunning(f"no answer from {self.place} within {self._timeout:g} s") from None
        except ssl.SSLError as error:
            raise AnotherServer(f"no TLS with {self.place}: {_tls_fault(error)}") from None
        except OSError as error:
            raise NotRunning(f"no response from btfeed at {self.place}: {explain(error)}. Is the server running?") from None
        except (HTTPException, ValueError):
            raise AnotherServer(f"the server at {self.place} is not btfeed: it does not answer as btfeed does") from None

    def _connection(self) -> HTTPConnection:
        if self._tls:
            return HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._tls)
        return HTTPConnection(self._host, self._port, timeout=self._timeout)

    def _error(self, response: HTTPResponse) -> AdminError:
        if not _is_marked(response):
            return self._another(response)
        message = response.read().decode(errors="replace").strip() or f"HTTP {response.status}"
        if response.status == 401:
            wrong = "does not accept the token" if self._headers else "asks for a token"
            return NotAllowed(f"the server at {self.place} {wrong}: {self._token_hint()}")
        if response.status == 403:
            return NotAllowed(f"the server at {self.place} refuses: {message}")
        if response.status == 404:
            return NotFound(self._no_such_path() if message.startswith("404") else message)
        return Refused(message)

    def _token_hint(self) -> str:
        if self._by_option:
            return "give it the running server's admin.token, with --token @FILE or in $BTFEED_ADMIN_TOKEN"
        return "set admin.token to the token of the running server"

    def _no_such_path(self) -> str:
        """For a 404 of the listener itself, not of what it was asked for."""
        if self._prefix:
            return f"the server at {self.place} has nothing there: leave out the path {self._prefix}"
        return f"the btfeed at {self.place} can't do this: it is probably an older version"

    def _another(self, response: HTTPResponse) -> AnotherServer:
        return AnotherServer(
            f"the server at {self.place} is not btfeed's admin listener (HTTP {response.status}): check the address"
        )


def _tls_fault(error: ssl.SSLError) -> str:
    """Why a handshake failed, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}. Name the file of its CA with --ca"
    said = explain(error)
    return f"{said}. If it speaks HTTP, write http://" if error.reason in _NOT_TLS else said


def _is_marked(response: HTTPResponse) -> bool:
    return response.getheader(_MARK[0]) == _MARK[1]


def segment(name: str) -> str:
    """A name, such as a sink's, as part of a path."""
    return quote(name, safe="")
