"""What one client may occupy, and for how long."""

from dataclasses import dataclass

MAX_HEADER_BYTES = 2**14
"""The request target and all header fields, trailers included."""
MAX_HEADER_FIELDS = 128
MAX_PIPELINED = 16
"""Requests waiting for a response on one connection. Beyond that the connection is not read from."""
PARSE_STEP = 2**13
"""Bytes handed to the parser at a time, except within a body. One read from the socket can hold hundreds of requests."""
READ_AHEAD = 2**16
"""Bytes of a body that are buffered before the handler asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits that the owner of a server chooses. Times are in seconds.

    header_timeout   from the first byte of a connection or a request to the end of its header. With TLS also for the first
                     byte, and for the handshake
    write_timeout    for a client to read the responses that are waiting for it
    idle_timeout     a connection without a request is closed after this time
    discard_timeout  for the rest of a body whose request was already answered. Many clients read no response before they
                     have sent everything
    max_connections  for a further connection, an idle one is closed (`Standing` in state.py). If none is idle, the new
                     one gets a 503
    """

    header_timeout: float
    write_timeout: float
    idle_timeout: float
    discard_timeout: float = 10.0
    max_connections: int
