"""Connections to Kafka: how they are secured, and why there is none.

aiokafka's clients log why they could not connect, and raise only that they could not; so `Access.prove` connects by itself
before them, and says why.
"""

import asyncio
import socket
import ssl
from typing import Annotated, Any, Literal

from aiokafka import errors
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.protocol.metadata import MetadataRequest
from pydantic import AfterValidator, Field, model_validator

from sinks.base import Misconfigured, SinkError, Unavailable
from sinks.settings import Settings
from sinks.shared.http import Client, web_url
from sinks.shared.oauth import OAuth, OAuthSettings


class KafkaOAuthSettings(OAuthSettings):
    """An OAuth client, for OAUTHBEARER.

    client_id      as whoever gives the tokens knows it
    client_secret  likewise; take it from the environment
    token_url      where tokens are given
    scope          asked for, where it is needed
    resource       asked for, where it is needed
    """

    token_url: Annotated[str, AfterValidator(web_url)]
    scope: str = ""


class SecuritySettings(Settings):
    """How to reach the brokers. Without any of it: in the clear, as nobody.

    tls          encrypt, and ask for the brokers' certificates
    ca           PEM file of further certificates to trust
    certificate  PEM file of a certificate of our own, where brokers ask for one,
    key          and of its private key
    sasl         how to log in
    username     for PLAIN and SCRAM,
    password     likewise; take it from the environment
    oauth        who gives the tokens for OAUTHBEARER
    """

    tls: bool = False
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    username: str | None = None
    password: Annotated[str | None, Field(repr=False)] = None
    oauth: KafkaOAuthSettings | None = None

    @model_validator(mode="after")
    def _go_together(self) -> "SecuritySettings":
        if not self.tls and (self.ca or self.certificate or self.key):
            raise ValueError("ca, certificate and key are of no use without tls = true")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        password = self.sasl is not None and self.sasl != "OAUTHBEARER"
        if (self.username is not None, self.password is not None) != (password, password):
            needs = f"{self.sasl} needs" if password else "only PLAIN and SCRAM take"
            raise ValueError(f"{needs} username and password")
        if (self.oauth is not None) != (self.sasl == "OAUTHBEARER"):
            raise ValueError("OAUTHBEARER needs oauth, and nothing else takes it")
        return self


class _Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is not typed
    """Of an OAuth client. An error that aiokafka does not know would end its tasks."""

    def __init__(self, oauth: OAuth) -> None:
        self._oauth = oauth

    async def token(self) -> str:
        try:
            return await self._oauth.token()
        except SinkError as error:
            raise errors.KafkaConnectionError(str(error)) from error


class Access:
    """The way to one cluster: what each of aiokafka's clients is to be told."""

    def __init__(self, bootstrap_servers: str, security: SecuritySettings, request_timeout: float) -> None:
        self._security = security
        self._http = Client(request_timeout, security.ca, [security.oauth.client_secret]) if security.oauth else None
        self._arguments: dict[str, Any] = {
            "client_id": "btfeed",
            "request_timeout_ms": round(request_timeout * 1000),
            "security_protocol": ("SASL_" if security.sasl else "") + ("SSL" if security.tls else "PLAINTEXT"),
        }
        if security.sasl:
            self._arguments["sasl_mechanism"] = security.sasl
            self._arguments["sasl_plain_username"] = security.username
            self._arguments["sasl_plain_password"] = security.password
        if security.oauth and self._http:
            self._arguments["sasl_oauth_token_provider"] = _Tokens(OAuth(security.oauth, self._http))
        self._servers = bootstrap_servers

    def arguments(self) -> dict[str, Any]:
        """For a client or a producer of aiokafka. Raises Misconfigured."""
        if self._security.tls and "ssl_context" not in self._arguments:
            self._arguments["ssl_context"] = _tls(self._security)
        if self._http:
            self._http.open()
        return self._arguments | {"bootstrap_servers": self._servers}

    async def prove(self) -> None:
        """One of the servers takes us. Raises Unavailable or Misconfigured, which says of each why not."""
        arguments = self.arguments()
        del arguments["bootstrap_servers"]
        failures: list[SinkError] = []
        for host, port, _ in collect_hosts(self._servers, randomize=False):
            try:
                connection = await create_conn(host, port, **arguments)
                try:
                    answer = await connection.send(MetadataRequest([]))
                finally:
                    connection.close()
                if not answer.brokers:  # so it ends a connection on which a token was refused
                    raise errors.KafkaConnectionError("no broker is named")
                return
            except Exception as error:  # noqa: BLE001 - a server that is none may answer anything
                failures.append(refusal(error, f"{host}:{port}", self._security))
        kind = Misconfigured if any(isinstance(failure, Misconfigured) for failure in failures) else Unavailable
        raise kind("; ".join(map(str, failures))) from failures[0]

    async def close(self) -> None:
        if self._http:
            await self._http.close()


def refusal(error: Exception, where: str, security: SecuritySettings) -> SinkError:
    """Why there is no connection to the server `where`: what a person must mend is Misconfigured, else Unavailable."""
    if isinstance(error.__cause__, SinkError):  # there is no token
        return error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        said = f"its certificate is not trusted: {error.verify_message}; security.ca names a file of others to trust"
        return Misconfigured(f"{where}: {said}")
    if isinstance(error, ssl.SSLError):
        return Misconfigured(f"{where}: TLS fails: {error.reason or error}; does that port speak TLS?")
    if isinstance(error, (errors.SaslAuthenticationFailed, errors.AuthenticationFailedError)):
        whom = "the token" if security.oauth else f"user {security.username!r}"
        return Misconfigured(f"{where}: the broker refuses {whom}: {_words(error)}")
    if isinstance(error, (errors.UnsupportedSaslMechanismError, errors.IllegalSaslStateError)):
        return Misconfigured(f"{where}: the broker does not take {security.sasl}: {_words(error)}")
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return Unavailable(f"{where}: no answer in time")
    if isinstance(error, socket.gaierror):
        return Unavailable(f"{where}: no such host: {error.strerror}")
    if isinstance(error, OSError) and not isinstance(
        error, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
    ):
        return Unavailable(f"{where}: no connection: {error.strerror or error}")
    if isinstance(error, (OSError, errors.KafkaConnectionError)):
        if security.sasl == "OAUTHBEARER":  # its refusal of a token is a closed connection
            return Misconfigured(f"{where}: the broker closed the connection; does it take tokens of security.oauth?")
        return Unavailable(f"{where}: the broker closed the connection; {_hint(security)}")
    return Unavailable(f"{where}: it does not answer as a Kafka broker does: {error!r}")


def _hint(security: SecuritySettings) -> str:
    """What may be wrong where a broker ends a connection without a word."""
    if not security.tls:
        return "does it want security.tls or security.sasl?"
    wanted = [name for name in ("sasl", "certificate") if getattr(security, name) is None]
    return f"does that port speak TLS, and does it want {' or '.join(f'security.{name}' for name in wanted)}?"


def _words(error: Exception) -> str:
    """What a broker said, else what its error is called."""
    said = next((text for text in error.args if isinstance(text, str) and text), "")
    return said or getattr(error, "description", "") or type(error).__name__


def _tls(security: SecuritySettings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if security.ca:
            context.load_verify_locations(security.ca)
        if security.certificate and security.key:
            context.load_cert_chain(security.certificate, security.key)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(file for file in (security.ca, security.certificate, security.key) if file)
        raise Misconfigured(f"can't take certificates and key from {files}: {error}") from error
    return context
