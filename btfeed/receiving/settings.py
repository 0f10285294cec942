"""The [receiver] table of the configuration."""

import ssl
from typing import Annotated

from pydantic import AfterValidator, Field

from btfeed.address import Address
from sinks.settings import Place, RequiredSecret, Seconds, Settings, Size
from sinks.shared.tls import server_context

MAX_WORKERS = 256
"""More than any machine has use for."""


def _path(value: str) -> str:
    if not value.startswith("/") or "?" in value or "#" in value:
        raise ValueError('invalid path: start it with / and leave out ? and #, for example "/bt"')
    return value


class BasicAuth(Settings):
    """Credentials that AppMon sends with each post.

    username  as entered in AppMon
    password  as entered in AppMon; take it from the environment
    """

    username: str
    password: RequiredSecret


class TlsSettings(Settings):
    """HTTPS.

    certificate  PEM file with the certificate, followed by intermediate ones if there are any
    key          PEM file with its private key
    client_ca    PEM file with the CA of clients' certificates; if set, clients must have one
    """

    certificate: Place
    key: Place
    client_ca: Place | None = None

    def context(self) -> ssl.SSLContext:
        """The server's TLS context. Raises OSError if a file can't be used."""
        return server_context(self.certificate, self.key, self.client_ca)


class ReceiverSettings(Settings):
    """Where and how AppMon posts.

    listen           address and port to listen on
    path             path that posts are sent to; percent-encoded or not, and %2F is a slash
    max_body         size of a post, both as sent and after decompression; larger ones get a 413
    max_occurrences  occurrences in one post; a post with more gets a 413
    basic_auth       username and password that every post must carry
    bearer_tokens    tokens, one of which every post must carry; together with basic_auth, either is accepted
    tls              serve HTTPS instead of HTTP
    header_timeout   from the first byte of a connection or request to the end of its header, and for TLS handshakes; then
                     the connection is closed
    body_timeout     from the end of the header to the end of the body, and for the client to read a response; then the
                     connection is closed
    idle_timeout     a connection without a request is closed after this time
    max_connections  open connections; for a further one, that which has been idle longest is closed, unused ones first. If
                     none is idle, the further one gets a 503
    max_in_flight    memory for bodies being received; when it is used up, posts wait for `queue_timeout`, then get a 503
    queue_timeout    how long a post waits for memory; keep it below AppMon's timeout of 10 seconds
    workers          processes that receive on this address, of `btfeed receive`; each has its own max_connections,
                     max_in_flight and spill. More than 1 needs a journal in Kafka
    """

    listen: Address = "127.0.0.1:4321"
    path: Annotated[str, AfterValidator(_path)] = "/"
    max_body: Annotated[Size, Field(ge=1)] = 16 * 2**20
    max_occurrences: Annotated[int, Field(ge=1)] = 100_000
    basic_auth: BasicAuth | None = None
    bearer_tokens: list[RequiredSecret] = []
    tls: TlsSettings | None = None
    header_timeout: Annotated[Seconds, Field(gt=0)] = 5.0
    body_timeout: Annotated[Seconds, Field(gt=0)] = 30.0
    idle_timeout: Annotated[Seconds, Field(gt=0)] = 75.0
    max_connections: Annotated[int, Field(ge=1)] = 1_000
    max_in_flight: Annotated[Size, Field(ge=1)] = 64 * 2**20
    queue_timeout: Seconds = 5.0
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1

    @property
    def asks_for_credentials(self) -> bool:
        """Whether a client must prove who it is."""
        return bool(self.basic_auth or self.bearer_tokens or (self.tls and self.tls.client_ca))
