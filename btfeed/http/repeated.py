"""The header that a client sends with each of its posts: of AppMon's, only the length of the body differs.

llhttp parses it once. What it said of the first request holds for each one that has the same bytes, whatever they mean, if
only the digits of Content-Length differ.
"""

import re
from typing import Self

from btfeed.http.request import Request

_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,9})\r\n", re.IGNORECASE)
_MORE = (b"transfer-encoding", b"expect", b"upgrade")
"""Fields of requests that are more than a header and a body."""


class RepeatedHeader:
    """Makes the requests of one connection that have the same header as an earlier one."""

    __slots__ = ("_after", "_before", "_request")

    def __init__(self, request: Request, before: bytes, after: bytes) -> None:
        """before, after: the header up to the digits of Content-Length, and from there on."""
        self._request = request
        self._before = before
        self._after = after

    @classmethod
    def of(cls, request: Request, data: bytes) -> Self | None:
        """data: from the first byte of the request on. None unless that is all of it and nothing else, or if it is not like
        the posts of AppMon."""
        size = len(data) - request.received
        if request.method != "POST" or not (request.complete and request.keep_alive and request.content_length):
            return None
        found = _LENGTH.search(data, 0, size)
        if not found or found[1] != request.headers.get(b"content-length") or data[size - 4 : size] != b"\r\n\r\n":
            return None
        if any(name in request.headers for name in _MORE):
            return None
        return cls(request.again(b"0", b""), data[: found.start(1)], data[found.end(1) : size])

    def request(self, data: bytes) -> Request | None:
        """The request that is `data`, if it is one with this header and nothing else."""
        begin = len(self._before)
        end = data.find(b"\r", begin, begin + 10)
        if end < 0 or not (data.startswith(self._before) and data.startswith(self._after, end)):
            return None
        length, body = data[begin:end], data[end + len(self._after) :]
        if not length.isdigit() or int(length) != len(body):
            return None
        return self._request.again(length, body)
