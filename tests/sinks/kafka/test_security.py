"""The Kafka sink with secured brokers: TLS, every SASL mechanism, privileges, and the messages of `check`."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from confluent_kafka.admin import AclOperation

from sinks.base import Misconfigured, SinkError, Unavailable, WriteResult
from tests.servers.kafka import PASSWORD, USER, Kafka, bearer
from tests.servers.registry import RegistryServer
from tests.sinks.drivers import opened
from tests.sinks.drivers.kafka import kafka_sink, new_topic, read_topic, values
from tests.support.fakes import mapped
from tests.support.harness import DEADLINE
from tests.support.ports import free_port

CLIENT_SECRET = "SECRETOFCLIENT"


class TokenServer:
    """An OAuth server that returns `token`: `with TokenServer() as tokens`, at `tokens.url`."""

    def __init__(self) -> None:
        self.token = bearer()
        self.given = 0
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                tokens.given += 1
                body = json.dumps({"access_token": tokens.token, "expires_in": 300}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Logs nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    found = TokenServer()
    yield found
    found.stop()


def security(kafka: Kafka, **more: object) -> dict[str, object]:
    """TLS settings that trust the brokers' certificates."""
    assert kafka.authority
    return {"tls": True, "ca": str(kafka.authority.certificate)} | more


def password(kafka: Kafka, mechanism: str, secret: str = PASSWORD) -> dict[str, object]:
    return security(kafka, sasl=mechanism, username=USER, password=secret)


def oauth(kafka: Kafka, tokens: TokenServer) -> dict[str, object]:
    client = {"client_id": "c", "client_secret": CLIENT_SECRET, "token_url": tokens.url}
    return security(kafka, sasl="OAUTHBEARER", oauth=client)


async def refusal(bootstrap: str, **settings: object) -> SinkError:
    """The error of `check`. Asserts that `open` raises the same."""
    said: list[SinkError] = []
    for attempt in ("check", "open"):
        sink = kafka_sink(bootstrap, settings)
        with pytest.raises((Misconfigured, Unavailable)) as raised:
            await (sink.check() if attempt == "check" else sink.open(None))
        await sink.close()
        said.append(raised.value)
        assert "SECRET" not in str(raised.value)
    assert (type(said[0]), str(said[0])) == (type(said[1]), str(said[1]))
    return said[0]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_logs_in_with_a_password(kafka: Kafka, mechanism: str) -> None:
    """Over TLS, and delivers. A wrong password is misconfigured."""
    topic = kafka.make_topic(new_topic())
    batch = mapped(30)
    async with opened(kafka_sink(kafka.sasl, {"topic": topic, "security": password(kafka, mechanism)})) as sink:
        assert await sink.write(batch) == WriteResult([])
    assert values(read_topic(kafka, topic)) == batch.bodies
    said = await refusal(kafka.sasl, topic=topic, security=password(kafka, mechanism, "SECRETOTHER"))
    assert isinstance(said, Misconfigured)
    assert f"rejects user '{USER}'" in str(said)


async def test_logs_in_with_a_token(kafka: Kafka, tokens: TokenServer) -> None:
    """One token for all connections. An expired one is misconfigured."""
    topic = kafka.make_topic(new_topic())
    batch = mapped(30)
    async with opened(kafka_sink(kafka.sasl, {"topic": topic, "security": oauth(kafka, tokens)})) as sink:
        assert await sink.write(batch) == WriteResult([])
    assert tokens.given == 1
    assert values(read_topic(kafka, topic)) == batch.bodies
    tokens.token = bearer(life=-100)
    said = await refusal(kafka.sasl, topic=topic, security=oauth(kafka, tokens))
    assert isinstance(said, Misconfigured)
    assert "token" in str(said)


async def test_is_unavailable_without_a_token(kafka: Kafka, tokens: TokenServer) -> None:
    """The sink is unavailable while the OAuth server is down."""
    settings = oauth(kafka, tokens) | {
        "oauth": {"client_id": "c", "client_secret": CLIENT_SECRET, "token_url": f"http://127.0.0.1:{free_port()}"}
    }
    said = await refusal(kafka.sasl, security=settings)
    assert type(said) is Unavailable
    assert str(said).startswith("no OAuth token")


async def test_shows_its_client_certificate(kafka: Kafka) -> None:
    """To a broker that requires one; without it the connection fails."""
    topic = kafka.make_topic(new_topic())
    assert kafka.authority
    certificate, key = map(str, kafka.authority.sign("client"))
    own = security(kafka, certificate=certificate, key=key)
    async with opened(kafka_sink(kafka.tls, {"topic": topic, "security": own})) as sink:
        assert await sink.write(mapped(3)) == WriteResult([])
    assert "security.certificate" in str(await refusal(kafka.tls, topic=topic, security=security(kafka)))
    assert f"certificate {key}: there is no certificate in PEM format in it" in str(
        await refusal(kafka.tls, security=security(kafka, certificate=key, key=certificate))
    )


async def test_missing_privileges_are_misconfigured(kafka: Kafka) -> None:
    """To see a topic or to write to it, which is found out without writing; also if they are withdrawn later."""
    login = password(kafka, "SCRAM-SHA-512")
    hidden, read_only, later = (kafka.make_topic(new_topic()) for _ in range(3))
    kafka.allow(hidden, "other", AclOperation.ALL)
    kafka.allow(read_only, USER, AclOperation.DESCRIBE)
    for topic in (hidden, read_only):
        said = await refusal(kafka.sasl, topic=topic, security=login)
        assert isinstance(said, Misconfigured)
        assert f"not authorized for topic {topic}" in str(said)
        assert read_topic(kafka, topic) == []
    async with opened(kafka_sink(kafka.sasl, {"topic": later, "security": login})) as sink:
        await sink.write(mapped(3))
        kafka.allow(later, USER, AclOperation.DESCRIBE)
        with pytest.raises(Misconfigured, match=f"topic {later}: TopicAuthorizationFailed"):
            await sink.write(mapped(3))
        kafka.allow(later, USER, AclOperation.WRITE)
        assert await sink.write(mapped(3)) == WriteResult([])
    assert len(read_topic(kafka, later)) == 6


async def test_a_topic_without_privileges_stops_no_other(kafka: Kafka) -> None:
    """Whether it lacks them from the start, or they are withdrawn while records are sent."""
    prefix, batch = new_topic(), mapped(60)
    hidden, later, free = (kafka.make_topic(f"{prefix}.{one}") for one in ("visit", "purepath", "user_action"))
    kafka.allow(hidden, "other", AclOperation.ALL)
    settings = {"topic": prefix + ".{category}", "security": password(kafka, "SCRAM-SHA-512")}
    async with opened(kafka_sink(kafka.sasl, settings)) as sink:
        for reason in ("not authorized for topic", None, "TopicAuthorizationFailed", None):
            if reason == "TopicAuthorizationFailed":
                kafka.allow(later, USER, AclOperation.DESCRIBE)
            result = await sink.write(batch)
            assert (list(result.retry), result.refused, result.unknown) == ([], {}, 0)
            blocked = {one.destination: one.reason for one in result.blocked.values()}
            expected = {f"topic {later if reason == 'TopicAuthorizationFailed' else hidden}"} if reason else set()
            assert expected <= blocked.keys()
            assert f"topic {free}" not in blocked
            if reason:
                assert reason in blocked[expected.pop()]
                kafka.allow(later if reason == "TopicAuthorizationFailed" else hidden, USER, AclOperation.WRITE)
    actions = sum(transaction.category == "user_action" for transaction in batch.transactions)
    assert len(read_topic(kafka, free)) == 4 * actions


async def test_check_says_what_is_wrong(kafka: Kafka) -> None:
    """No server, an unknown host, a wrong protocol, a certificate that is not trusted."""
    closed_port = f"127.0.0.1:{free_port()}"
    assert "can't connect" in str(await refusal(closed_port))
    assert "unknown host" in str(await refusal("no.such.host.invalid:9092"))
    assert "does it need security.tls" in str(await refusal(kafka.tls))
    assert "does that port speak TLS" in str(await refusal(kafka.bootstrap, security={"tls": True}))
    assert "certificate is not trusted" in str(await refusal(kafka.sasl, security={"tls": True}))
    sasl = {"sasl": "PLAIN", "username": "u", "password": "SECRET"}
    assert "does not accept PLAIN" in str(await refusal(kafka.bootstrap, security=sasl))
    topic = kafka.make_topic(new_topic())
    async with opened(kafka_sink(f"{closed_port},{kafka.bootstrap}", {"topic": topic})):
        """One that is there will do."""


async def test_a_server_that_never_replies_keeps_nobody_waiting(kafka: Kafka) -> None:
    """If another one is there, as when one of several machines is down."""
    topic = kafka.make_topic(new_topic())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = f"127.0.0.1:{silent.getsockname()[1]},{kafka.bootstrap}"
        settings = {"topic": topic, "request_timeout": "5m", "timeout": "5m"}
        async with asyncio.timeout(DEADLINE), opened(kafka_sink(servers, settings)) as sink:
            assert await sink.write(mapped(3)) == WriteResult([])


async def test_check_does_not_wait_forever(kafka: Kafka) -> None:
    """For a broker that accepts connections and never replies."""
    broker = kafka.nodes[0]
    broker.pause()
    try:
        said = await refusal(kafka.bootstrap, request_timeout="500ms")
    finally:
        broker.resume()
    assert type(said) is Unavailable
    assert "no reply in time" in str(said)


async def test_topics_that_could_not_be_created_are_misconfigured(kafka: Kafka) -> None:
    """For example with more replicas than brokers. Asking creates nothing."""
    topic = new_topic()
    said = await refusal(kafka.bootstrap, topic=topic, create_topics=True, replication_factor=3)
    assert isinstance(said, Misconfigured)
    assert "replication factor" in str(said)
    sink = kafka_sink(kafka.bootstrap, {"topic": topic, "create_topics": True})
    await sink.check()
    await sink.close()
    assert kafka.partitions(topic) == {}


async def test_a_registry_that_is_down_is_unavailable(kafka: Kafka, registry: RegistryServer) -> None:
    """One that rejects the credentials is misconfigured."""
    topic = kafka.make_topic(new_topic())
    avro = {"topic": topic, "format": "avro"}
    registry.locked = True
    said = await refusal(
        kafka.bootstrap, **avro, schema_registry={"url": registry.url, "username": "u", "password": "SECRET"}
    )
    assert isinstance(said, Misconfigured)
    assert "HTTP 401" in str(said)
    registry.stop()
    said = await refusal(kafka.bootstrap, **avro, schema_registry=registry.url)
    assert type(said) is Unavailable
    assert "schema registry" in str(said)
