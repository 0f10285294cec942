"""Access to a Kafka cluster: its security settings, and why a connection fails.

aiokafka's clients only log why they can't connect. So `ClusterAccess.verify` connects by itself before a client does, and
raises the reason.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from aiokafka import errors
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.protocol.api import Response
from aiokafka.protocol.metadata import MetadataRequest
from pydantic import model_validator

from sinks.base import Misconfigured, SinkError, Unavailable
from sinks.settings import Place, Secret, Settings
from sinks.shared.clock import Clock
from sinks.shared.http import HttpClient, ServiceUrl
from sinks.shared.oauth import OAuthSettings, OAuthTokens
from sinks.shared.reasons import explain
from sinks.shared.redaction import Redactor
from sinks.shared.tls import sink_context


class KafkaOAuthSettings(OAuthSettings):
    """An OAuth client, for OAUTHBEARER.

    client_id      the client's id at the authorization server
    client_secret  the client's secret; take it from the environment
    token_url      where to request tokens
    scope          the scope to request, if the server needs one
    resource       the resource to request, if the server needs one
    """

    token_url: ServiceUrl
    scope: str = ""


class SecuritySettings(Settings):
    """How to connect to the brokers. Without any of these keys: unencrypted, without authentication.

    tls          encrypt connections, and verify the brokers' certificates
    ca           PEM file with further certificates to trust
    certificate  PEM file with a client certificate, if brokers require one
    key          PEM file with the private key of `certificate`
    sasl         the authentication mechanism
    username     for PLAIN and SCRAM
    password     for PLAIN and SCRAM; take it from the environment
    oauth        the OAuth client that requests tokens for OAUTHBEARER
    """

    tls: bool = False
    ca: Place | None = None
    certificate: Place | None = None
    key: Place | None = None
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    username: str | None = None
    password: Secret | None = None
    oauth: KafkaOAuthSettings | None = None

    @model_validator(mode="after")
    def _files_of_tls(self) -> "SecuritySettings":
        if not self.tls and (self.ca or self.certificate or self.key):
            raise ValueError("ca, certificate and key need tls = true")
        return self

    @model_validator(mode="after")
    def _certificate_with_key(self) -> "SecuritySettings":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("set both certificate and key, or neither")
        return self

    @model_validator(mode="after")
    def _password_of_sasl(self) -> "SecuritySettings":
        needs_password = self.sasl is not None and self.sasl != "OAUTHBEARER"
        if (self.username is not None, self.password is not None) != (needs_password, needs_password):
            subject = f"{self.sasl} needs" if needs_password else "only PLAIN and SCRAM take"
            raise ValueError(f"{subject} username and password")
        return self

    @model_validator(mode="after")
    def _oauth_of_sasl(self) -> "SecuritySettings":
        if (self.oauth is not None) != (self.sasl == "OAUTHBEARER"):
            raise ValueError('set oauth if sasl is "OAUTHBEARER", and only then')
        return self


class _TokenProvider(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is not typed
    """Gives OAuth tokens to aiokafka, with the only kind of error that its tasks survive."""

    def __init__(self, tokens: OAuthTokens) -> None:
        self._tokens = tokens

    async def token(self) -> str:
        try:
            return await self._tokens.token()
        except SinkError as error:
            raise errors.KafkaConnectionError(str(error)) from error


class ClusterAccess:
    """What aiokafka's clients need to connect to one cluster."""

    def __init__(self, bootstrap_servers: str, security: SecuritySettings, request_timeout: float, clock: Clock) -> None:
        self._security = security
        self._servers = bootstrap_servers
        self._redactor = Redactor(security.password, security.oauth.client_secret if security.oauth else None)
        self._http = HttpClient(request_timeout, security.ca, self._redactor, clock) if security.oauth else None
        self._arguments: dict[str, Any] = {
            "client_id": "btfeed",
            "request_timeout_ms": round(request_timeout * 1000),
            "security_protocol": ("SASL_" if security.sasl else "") + ("SSL" if security.tls else "PLAINTEXT"),
        }
        if security.sasl:
            self._arguments["sasl_mechanism"] = security.sasl
        if security.password is not None:
            self._arguments["sasl_plain_username"] = security.username
            self._arguments["sasl_plain_password"] = security.password.get_secret_value()
        if security.oauth and self._http:
            tokens = OAuthTokens(security.oauth, self._http, clock)
            self._arguments["sasl_oauth_token_provider"] = _TokenProvider(tokens)

    def client_arguments(self) -> dict[str, Any]:
        """Arguments for a client or a producer of aiokafka. Raises Misconfigured."""
        security = self._security
        if security.tls and "ssl_context" not in self._arguments:
            self._arguments["ssl_context"] = sink_context(security.ca, security.certificate, security.key)
        if self._http:
            self._http.open()
        return self._arguments | {"bootstrap_servers": self._servers}

    async def verify(self) -> Response:
        """Connect and authenticate to all servers at the same time: a machine that is down would keep the others waiting.

        Returns what the first one that replies says of the brokers, for `steady`. If none does, raises Unavailable or
        Misconfigured with the reason of each.
        """
        arguments = self.client_arguments()
        del arguments["bootstrap_servers"]
        servers = [(host, port) for host, port, _ in collect_hosts(self._servers, randomize=False)]
        attempts = [asyncio.create_task(self._connect(host, port, arguments)) for host, port in servers]
        try:
            for attempt in asyncio.as_completed(attempts):
                with suppress(SinkError):
                    return await attempt
        finally:
            for each in attempts:
                each.cancel()
            failures = [
                each for each in await asyncio.gather(*attempts, return_exceptions=True) if isinstance(each, SinkError)
            ]
        kind = Misconfigured if any(isinstance(failure, Misconfigured) for failure in failures) else Unavailable
        raise kind(self._redactor.text("; ".join(map(str, failures)))) from failures[0]

    async def _connect(self, host: str, port: int, arguments: Mapping[str, Any]) -> Response:
        """The server's reply. Raises a SinkError."""
        try:
            connection = await create_conn(host, port, **arguments)
            try:
                answer = await connection.send(MetadataRequest([]))
            finally:
                connection.close()
            if not answer.brokers:  # aiokafka's answer on a connection that was closed because of a bad token
                raise errors.KafkaConnectionError("the reply names no broker")
        except Exception as error:  # noqa: BLE001 - a server that is not a Kafka broker may answer anything
            raise connection_error(error, f"{host}:{port}", self._security) from None
        return answer

    async def close(self) -> None:
        if self._http:
            await self._http.close()


def connection_error(error: Exception, server: str, security: SecuritySettings) -> SinkError:
    """The sink error for a failed connection: Misconfigured if a person has to act, else Unavailable."""
    if isinstance(error.__cause__, SinkError):  # no OAuth token
        return error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "add its issuer's certificate with security.ca"
        return Misconfigured(f"{server}: the broker's certificate is not trusted: {error.verify_message}; {hint}")
    if isinstance(error, ssl.SSLError):
        return Misconfigured(f"{server}: TLS fails: {explain(error)}; does that port speak TLS?")
    if isinstance(error, (errors.SaslAuthenticationFailed, errors.AuthenticationFailedError)):
        rejected = "the token" if security.oauth else f"user {security.username!r}"
        return Misconfigured(f"{server}: the broker rejects {rejected}: {_broker_message(error)}")
    if isinstance(error, (errors.UnsupportedSaslMechanismError, errors.IllegalSaslStateError)):
        return Misconfigured(f"{server}: the broker does not accept {security.sasl}: {_broker_message(error)}")
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return Unavailable(f"{server}: no reply in time")
    if isinstance(error, socket.gaierror):
        return Unavailable(f"{server}: unknown host: {error.strerror}")
    closed = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
    if isinstance(error, OSError) and not isinstance(error, closed):
        return Unavailable(f"{server}: can't connect: {explain(error)}")
    if isinstance(error, (OSError, errors.KafkaConnectionError)):
        if security.sasl == "OAUTHBEARER":  # brokers close the connection if they reject a token
            return Misconfigured(f"{server}: the broker closed the connection; does it accept tokens of security.oauth?")
        return Unavailable(f"{server}: the broker closed the connection; {_closed_connection_hint(security)}")
    return Unavailable(f"{server}: the reply is not that of a Kafka broker: {error!r}")


def _closed_connection_hint(security: SecuritySettings) -> str:
    """What may be wrong if a broker closes the connection without an error."""
    if not security.tls:
        return "does it need security.tls or security.sasl?"
    unused = [name for name in ("sasl", "certificate") if getattr(security, name) is None]
    return f"does that port speak TLS, and does it need {' or '.join(f'security.{name}' for name in unused)}?"


def _broker_message(error: Exception) -> str:
    """The broker's own message if there is one, else the name of the error."""
    message = next((text for text in error.args if isinstance(text, str) and text), "")
    return message or getattr(error, "description", "") or type(error).__name__
