"""OAuth tokens: when they are requested, and what redaction leaves of them."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from sinks.base import Misconfigured
from sinks.settings import Secret
from sinks.shared.http import HttpClient, Reply
from sinks.shared.oauth import OAuthSettings, OAuthTokens
from sinks.shared.redaction import Redactor
from tests.support.clock import FakeClock

SETTINGS = OAuthSettings(client_id="client", client_secret=Secret("SECRET"))


class FakeClient:
    """A token server that answers with `status` and the next of `tokens`, and repeats the request's secret in an error."""

    def __init__(self, *tokens: str, status: int = 200) -> None:
        self.redactor = Redactor(SETTINGS.client_secret)
        self.requests = 0
        self._tokens = list(tokens)
        self._status = status

    async def post(self, url: str, data: Any, headers: Mapping[str, str], redact: bool = True) -> Reply[bytes]:
        self.requests += 1
        await asyncio.sleep(0)
        answer = {"access_token": self._tokens.pop(0), "expires_in": 100} if self._tokens else {"error": "no SECRET"}
        body = json.dumps(answer).encode()
        reply = Reply(self._status, {}, body, 0.0)
        return replace(reply, body=self.redactor.body(body)) if redact else reply


def tokens_from(client: FakeClient, clock: FakeClock) -> OAuthTokens:
    return OAuthTokens(SETTINGS, cast("HttpClient", client), clock)


async def test_a_token_is_used_for_most_of_its_life() -> None:
    """80 of its 100 seconds. Concurrent callers get the same one."""
    client, clock = FakeClient("one", "two"), FakeClock()
    tokens = tokens_from(client, clock)
    assert await asyncio.gather(*(tokens.token() for _ in range(5))) == ["one"] * 5
    await clock.advance(79.9)
    assert await tokens.token() == "one"
    await clock.advance(0.1)
    assert await asyncio.gather(*(tokens.token() for _ in range(5))) == ["two"] * 5
    assert client.requests == 2


@pytest.mark.parametrize("change", [-86_400.0, 86_400.0])
async def test_a_token_lives_as_long_if_the_clock_is_set(change: float) -> None:
    """Back or forward: its lifetime counts from when it was requested."""
    client, clock = FakeClient("one", "two"), FakeClock()
    tokens = tokens_from(client, clock)
    await tokens.token()
    clock.epoch += change
    await clock.advance(79.9)
    assert await tokens.token() == "one"
    await clock.advance(0.1)
    assert await tokens.token() == "two"


async def test_a_server_may_return_the_same_token_again() -> None:
    """As servers do that keep tokens. It is not mistaken for a repeated secret, and still removed from other replies."""
    client, clock = FakeClient("same", "same"), FakeClock()
    tokens = tokens_from(client, clock)
    for _ in range(2):
        assert await tokens.token() == "same"
        await clock.advance(100)
    assert client.redactor.text("token same") == "token ***"


async def test_an_error_of_the_server_is_quoted_without_the_secret() -> None:
    """Which the server knows from the request."""
    with pytest.raises(Misconfigured, match=r"HTTP 401: no \*\*\*"):
        await tokens_from(FakeClient(status=401), FakeClock()).token()


async def test_only_a_token_that_worked_is_worth_replacing() -> None:
    """A new token that is rejected at once shows that the client lacks a right."""
    tokens = tokens_from(FakeClient("one", "two"), FakeClock())
    first = await tokens.token()
    tokens.mark_accepted(first)
    assert tokens.mark_rejected(first)
    second = await tokens.token()
    assert tokens.mark_rejected(first), "it was replaced in the meantime"
    assert not tokens.mark_rejected(second)
