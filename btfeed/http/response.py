"""The response to a request, and its encoding."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

RETRY_AFTER: Mapping[str, str] = {"Retry-After": "5"}
"""Header of the receiver's 503s. AppMon does not retry, but load balancers and `btfeed replay` do."""


@dataclass(frozen=True, slots=True)
class Response:
    """text: the body, as plain text. close: close the connection after this response."""

    status: int = 200
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False

    def encode(self, connection: str = "", with_body: bool = True) -> bytes:
        """Encode for the wire. connection: value of the Connection header. with_body: False in reply to HEAD."""
        if self.status == 200 and not (connection or self.text or self.headers):
            return _empty(int(time.time()))
        text = self.text.encode(errors="replace")
        fields = {"Content-Type": "text/plain"} if text else {}
        fields |= {"Content-Length": str(len(text)), **self.headers}
        fields |= {"Connection": connection} if connection else {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode("latin-1", errors="replace")
        status = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n".encode()
        return b"".join((status, _common_fields(int(time.time())), lines, b"\r\n", text if with_body else b""))


@lru_cache(maxsize=1)
def _empty(second: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: 0\r\n\r\n" % _common_fields(second)


@lru_cache(maxsize=1)
def _common_fields(second: int) -> bytes:
    return f"Server: btfeed\r\nDate: {formatdate(second, usegmt=True)}\r\n".encode()
