"""Secrets never show: not in settings, not in errors, not in logs, whatever another system repeats."""

import logging
from typing import Any
from urllib.parse import quote_plus

import msgspec
import pytest
from aiokafka.errors import AuthenticationFailedError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs

from btfeed import config
from btfeed.faults import ConfigError
from btfeed.records.schema import MAPS, RECORD_FIELDS
from sinks.base import Sink, SinkContext, SinkError
from sinks.kafka import access
from sinks.settings import RequiredSecret, Secret, Settings, Token
from sinks.shared.redaction import TOKENS_KEPT, Redactor
from tests.servers.echo import EchoServer
from tests.support.fakes import mapped
from tests.support.secrets import CLIENT, OTHERS, SINKS, assert_hidden, at


async def failures(sink: Sink) -> list[BaseException]:
    """What open, check and write raise, with everything that led to it."""
    raised: list[BaseException] = []
    for call in (sink.check, lambda: sink.open(None), lambda: sink.write(mapped(3))):
        with pytest.raises(SinkError) as info:
            await call()
        error: BaseException | None = info.value
        while error:
            raised.append(error)
            error = error.__cause__
    await sink.close()
    return raised


@pytest.mark.parametrize("table", SINKS.values(), ids=SINKS)
async def test_a_sink_never_shows_what_a_server_repeats(table: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """The server answers every request with an error that contains the request."""
    caplog.set_level(logging.DEBUG)
    with EchoServer() as server, capture_logs() as logs:
        configured = config.parse({"sinks": {"s": at(table, server.address)}}, {}).sinks["s"]
        sink = configured.type.create(configured.settings, SinkContext("s", RECORD_FIELDS, MAPS))
        raised = await failures(sink)
        if table["type"] != "kafka":  # brokers don't speak HTTP
            assert server.requests > 0
            assert "***" in "".join(map(str, raised))
    assert_hidden(table, *raised, *map(repr, raised), logs, caplog.text, repr(configured), str(configured.settings))


async def test_kafka_never_shows_what_a_broker_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reason for a refused login may contain the password."""

    async def refuse(*_: object, sasl_plain_password: str, **more: object) -> None:
        raise AuthenticationFailedError(f"{sasl_plain_password} is wrong")

    monkeypatch.setattr(access, "create_conn", refuse)
    table = SINKS["kafka with a password"] | {"bootstrap_servers": "one:1,two:2"}
    configured = config.parse({"sinks": {"s": table}}, {}).sinks["s"]
    raised = await failures(configured.type.create(configured.settings, SinkContext("s", RECORD_FIELDS, MAPS)))
    assert str(raised[0]).count("the broker rejects user 'u': *** is wrong") == 2


def test_the_configuration_never_shows_a_secret() -> None:
    """Neither whole nor in part, as repr or as str."""
    tables = {**OTHERS, "sinks": {str(number): table for number, table in enumerate(SINKS.values())}}
    with EchoServer() as server:
        found = config.parse(at(tables, server.address), {})
    settings = [found.receiver, found.admin, found.record.privacy, *(sink.settings for sink in found.sinks.values())]
    dumps = [one.model_dump() for one in settings]
    assert_hidden(tables, repr(found), *map(repr, settings), *map(str, settings), *dumps)


@pytest.mark.parametrize(
    "table",
    [
        {"receiver": OTHERS["receiver"] | {"listen": "nowhere"}},
        {"receiver": {"bearer_tokens": ["SECRET-one", ""]}},
        {"receiver": {"basic_auth": {"username": "u", "password": ["SECRET-list"]}}},
        {"record": {"privacy": {"key": "SECRET-hash", "hash": ["duration"]}}},
        {"sinks": {"s": {"type": "bizevents", "url": "https://x", "api_token": "SECRET token"}}},
        {"sinks": {"s": {"type": "bizevents", "url": "https://x", "api_token": "SECRET-token", "oauth": CLIENT}}},
        {"sinks": {"s": SINKS["elasticsearch with an API key"] | {"auth": {"api_key": "SECRET", "bearer": "SECRET"}}}},
        {"sinks": {"s": {"type": "kafka", "bootstrap_servers": "a:1", "security": {"password": "SECRET-sasl"}}}},
        {"sinks": {"s": {"type": "SECRET-misplaced"}}},
        {"sinks": {"s": {"type": "bizevents", "url": "https://user:SECRET-url@host", "api_token": "t"}}},
    ],
)
def test_no_fault_of_the_configuration_shows_a_secret(table: dict[str, Any]) -> None:
    """Even if the secret itself is at fault, or stands in the wrong place."""
    with pytest.raises(ConfigError) as raised:
        config.parse(table, {})
    assert_hidden(table, *raised.value.faults, repr(raised.value))


def test_a_validation_error_does_not_show_its_input() -> None:
    """Not even pydantic's own message."""

    class Table(Settings):
        secret: RequiredSecret
        token: Token

    with pytest.raises(ValidationError) as raised:
        Table.model_validate({"secret": ["SECRET"], "token": "SECRET with spaces"})
    assert_hidden({}, str(raised.value), repr(raised.value))


@given(st.text(min_size=1), st.text(), st.text())
def test_a_secret_is_removed_in_each_of_its_forms(secret: str, before: str, after: str) -> None:
    """As it is, in JSON, and URL-encoded. A reply in JSON can still be read, whatever the secret is."""
    redactor = Redactor(Secret(secret), None)
    assert secret not in redactor.text(before + secret + after).replace("***", "")
    assert quote_plus(secret) not in redactor.text(quote_plus(secret)).replace("***", "")
    reply = {"errors": [{"message": f"<{secret}>", "index": 1}]}
    (error,) = msgspec.json.decode(redactor.body(msgspec.json.encode(reply)))["errors"]
    assert error == {"message": redactor.text(f"<{secret}>"), "index": 1}
    nested = msgspec.json.encode(msgspec.json.encode(secret).decode())
    assert msgspec.json.encode(secret).decode() not in msgspec.json.decode(redactor.body(nested))


def test_what_is_not_json_is_redacted_too() -> None:
    """Even if it isn't UTF-8."""
    assert Redactor(Secret("word")).body(b"<p>\xff the word</p>").endswith(b" the ***</p>")


def test_a_secret_that_contains_another_is_removed_as_a_whole() -> None:
    """Nothing of its rest is left."""
    assert Redactor(Secret("word"), Secret("password")).text("my password") == "my ***"


def test_only_the_last_tokens_are_remembered() -> None:
    """A server that runs for years gets many. An empty secret removes nothing."""
    redactor = Redactor(Secret(""))
    for number in range(TOKENS_KEPT + 1):
        redactor.add_token(f"token{number}")
    assert redactor.text("token0 token1 token2") == "token0 *** ***"
