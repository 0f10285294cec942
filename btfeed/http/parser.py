"""From the bytes of a connection to its requests. llhttp does the parsing, and this module decides when it gets how much.

The bytes of a body in chunks do not go through llhttp, see chunks. Nor do those of a request that has the header of an
earlier one, see repeated.
"""

from collections.abc import Callable

import httptools

from btfeed.http.chunks import BodyInChunks, ChunkedBody, end_of_headers
from btfeed.http.limits import MAX_HEADER_BYTES, MAX_HEADER_FIELDS, PARSE_STEP
from btfeed.http.request import ClientConnection, InvalidRequest, Request, check_headers, decode_path

TLS_HELLO = b"\x16\x03"
"""How a TLS connection begins."""


class RequestParser:
    """Calls `on_request` with each request whose header is complete. httptools calls the other `on_...` methods.

    unparsed   what has arrived and is not parsed yet
    in_header  part of a header has arrived
    target     of that header's request, as far as it has arrived
    method     of the newest request whose header is complete
    receiving  the request whose body is arriving
    """

    def __init__(self, connection: ClientConnection, on_request: Callable[[Request], None]) -> None:
        self._connection = connection
        self._on_request = on_request
        self._llhttp = self._create_llhttp()
        self._unreported = 0  # bytes parsed since llhttp last reported something
        self._header_tail = b""  # the last bytes of a header that has arrived in part
        self._chunks: ChunkedBody | None = None  # while such a body is arriving
        self._lengths: list[int] = []  # of the bodies whose header was complete in this piece
        self.unparsed = memoryview(b"")
        self.in_header = False
        self.target = b""
        self.method = ""
        self.receiving: Request | None = None

    @property
    def at_start(self) -> bool:
        """Whether the next byte is the first of a request."""
        return not (self.in_header or self.unparsed or self.receiving)

    @property
    def in_post(self) -> bool:
        """Whether what has arrived of a header begins like that of a post."""
        return self.in_header and self._llhttp.get_method() == b"POST"

    @property
    def began_post(self) -> bool:
        """Whether some of a post's header has arrived after its method."""
        return bool(self.target) and self.in_post

    def add(self, data: bytes) -> None:
        """To be parsed."""
        self.unparsed = memoryview(bytes(self.unparsed) + data if self.unparsed else data)

    def drop(self) -> None:
        """Do not parse what is left."""
        self.unparsed = memoryview(b"")

    def parse(self) -> None:
        """Parse a piece of what has arrived. Raises InvalidRequest."""
        remaining = self.receiving.remaining if self.receiving else 0
        size = max(PARSE_STEP, remaining)
        piece, self.unparsed = self.unparsed[:size], self.unparsed[size:]
        if self._chunks:
            self._feed_chunks(self._chunks, piece)
        else:
            self._feed_llhttp(piece, remaining)

    def _feed_llhttp(self, piece: memoryview, remaining: int) -> None:
        """remaining: bytes of a body that it begins with. Raises InvalidRequest."""
        self._unreported += len(piece)
        self._lengths.clear()
        begun = self._header_tail
        try:
            self._llhttp.feed_data(piece)
            if self.in_header:
                self._header_tail = (begun + bytes(piece[-3:]))[-3:]
            elif begun:
                self._header_tail = b""
            if self._unreported > MAX_HEADER_BYTES + PARSE_STEP:
                raise InvalidRequest(f"the header is longer than {MAX_HEADER_BYTES} bytes")
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(piece[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, InvalidRequest):
                raise error.__context__ from None
            if not isinstance(error.__context__, BodyInChunks):
                raise
            self._begin_chunks(piece[end_of_headers(begun, bytes(piece), remaining, self._lengths) :])
        except httptools.HttpParserError as error:
            tls = not self.method and piece[:2] == TLS_HELLO
            raise InvalidRequest("this is TLS: use http:// in the URL" if tls else str(error), lost=tls) from None

    def _begin_chunks(self, rest: memoryview) -> None:
        assert self.receiving
        self._chunks = ChunkedBody(self.receiving.feed_data)
        self._header_tail = b""
        self._llhttp = self._create_llhttp()  # it can't go on after it was stopped
        self.unparsed = memoryview(bytes(rest) + bytes(self.unparsed))

    def _feed_chunks(self, chunks: ChunkedBody, piece: memoryview) -> None:
        """Raises InvalidRequest."""
        used = chunks.feed(bytes(piece))
        if chunks.complete:
            assert self.receiving
            self._chunks = None
            rest = bytes(piece[used:]) + bytes(self.unparsed) if self.receiving.keep_alive else b""
            self.unparsed = memoryview(rest)
            self.on_message_complete()

    def _decline_upgrade(self, rest: memoryview) -> None:
        """Treat the request as if it asked for no upgrade, since this server has no other protocol to offer.

        llhttp leaves everything after the header to the other protocol, even the body. A new parser therefore gets the
        header again, without the Upgrade field.
        """
        self._unreported = 0
        self._header_tail = b""
        start = f"{self.method} ".encode() + self.target + f" HTTP/{self._llhttp.get_http_version()}\r\n".encode()
        fields = (b"%b: %b\r\n" % field for field in self._headers.items() if field[0] != b"upgrade")
        self.unparsed = memoryview(b"".join((start, *fields, b"\r\n", rest, self.unparsed)))
        self._llhttp = self._create_llhttp()

    def _create_llhttp(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_transfer_encoding=True)  # check_headers is stricter, and says why
        return parser

    # Called by llhttp

    def on_message_begin(self) -> None:
        self.in_header = True
        self.target = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = self._header_fields = 0

    def on_url(self, part: bytes) -> None:
        self.target += part
        self._count_header(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_fields += 1
        self._count_header(len(name) + len(value))
        if self.in_header:  # otherwise it is a trailer, which is ignored
            name = name.lower()
            headers = self._headers
            headers[name] = headers[name] + b", " + value if name in headers else value

    def _count_header(self, size: int) -> None:
        self._unreported = 0
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES or self._header_fields > MAX_HEADER_FIELDS:
            raise InvalidRequest(f"the header is longer than {MAX_HEADER_BYTES} bytes or {MAX_HEADER_FIELDS} fields")

    def on_headers_complete(self) -> None:
        self.method = self._llhttp.get_method().decode()
        if self._llhttp.should_upgrade() and self.method != "CONNECT":
            return  # _decline_upgrade will have it parsed again
        version = self._llhttp.get_http_version()
        check_headers(self.method, version, self._headers)
        faulty = version == "1.0" and b"transfer-encoding" in self._headers  # RFC 9112, 6.1: close after such a message
        keep_alive = self._llhttp.should_keep_alive() and self.method != "CONNECT" and not faulty
        path = decode_path(self.target, self.method)
        self.in_header = False
        self.receiving = request = Request(self._connection, self.method, path, version, self._headers, keep_alive)
        self._lengths.append(request.content_length or 0)
        self._on_request(request)
        if request.content_length is None:
            raise BodyInChunks

    def on_body(self, part: bytes) -> None:
        self._unreported = 0
        if self.receiving:
            self.receiving.feed_data(part)

    def on_message_complete(self) -> None:
        self._unreported = 0
        if self.receiving:
            self.receiving.feed_eof()
            self.receiving = None
