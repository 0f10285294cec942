"""OAuth client credentials: requests a token, and the next one before it expires. One request at a time."""

import asyncio
from dataclasses import replace
from typing import Annotated, Any

import aiohttp
import msgspec
from pydantic import Field

from sinks.base import Misconfigured, Unavailable
from sinks.settings import RequiredSecret, Settings
from sinks.shared.clock import SYSTEM_CLOCK, Clock
from sinks.shared.http import HttpClient, Reply, ServiceUrl, describe_reply

USED_LIFETIME = 0.8
"""The part of a token's lifetime in which it is used."""
DEFAULT_LIFETIME = 60.0
"""Seconds that a token is assumed to be valid if its server doesn't say."""


class OAuthSettings(Settings):
    """An OAuth client.

    client_id      as shown by Dynatrace's account management
    client_secret  the client's secret; take it from the environment
    token_url      where to request tokens
    scope          the scope to request; the client must have it
    resource       `urn:dtaccount:...`, if the client needs it
    """

    client_id: Annotated[str, Field(min_length=1)]
    client_secret: RequiredSecret
    token_url: ServiceUrl = "https://sso.dynatrace.com/sso/oauth2/token"  # noqa: S105 - not a secret
    scope: str = "storage:events:write"
    resource: str | None = None


class OAuthTokens:
    """The tokens of one OAuth client. The redactor of `client` removes each of them from messages."""

    def __init__(self, settings: OAuthSettings, client: HttpClient, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token: str | None = None
        self._use_until = 0.0  # of the monotonic clock
        self._accepted = False  # by the service that it is for, at least once

    async def token(self) -> str:
        """A token that is valid for a while. Raises Unavailable or Misconfigured."""
        async with self._lock:
            if self._token is None or self._clock.monotonic() >= self._use_until:
                await self._refresh()
            assert self._token
            return self._token

    def mark_accepted(self, token: str) -> None:
        """Record that the service accepted `token`."""
        self._accepted |= token == self._token

    def mark_rejected(self, token: str) -> bool:
        """Record that the service rejected `token`. Returns whether a new token may help.

        It may if this one had been accepted before, or was replaced in the meantime.
        """
        if token != self._token:
            return True
        self._token = None
        return self._accepted

    async def _refresh(self) -> None:
        requested = self._clock.monotonic()
        form = {
            "grant_type": "client_credentials",
            "client_id": self._settings.client_id,
            "client_secret": self._settings.client_secret.get_secret_value(),
        }
        for name in ("scope", "resource"):
            if value := getattr(self._settings, name):
                form[name] = value
        try:
            reply = await self._client.post(self._settings.token_url, aiohttp.FormData(form), {}, redact=False)
        except Unavailable as error:  # also OutcomeUnknown: requesting a token twice does no harm
            raise Unavailable(f"no OAuth token: {error}", error.retry_after) from error
        if reply.status != 200:  # a 200 is never quoted, and may contain the last token again
            reply = replace(reply, body=self._client.redactor.body(reply.body))
        self._token, lifetime = parse_token(reply)
        self._client.redactor.add_token(self._token)
        self._use_until = requested + USED_LIFETIME * lifetime
        self._accepted = False


def parse_token(reply: Reply[bytes]) -> tuple[str, float]:
    """The token in a reply, and its lifetime in seconds. Raises Unavailable or Misconfigured."""
    if reply.status in (408, 429) or reply.status >= 500:
        raise Unavailable(f"no OAuth token: {describe_reply(reply)}", reply.retry_after)
    if reply.status != 200:
        hint = "check client_id, client_secret, scope and resource in `oauth`"
        raise Misconfigured(f"no OAuth token: {describe_reply(reply)}; {hint}")
    try:
        answer: Any = msgspec.json.decode(reply.body)
        token, lifetime = answer["access_token"], float(answer.get("expires_in", DEFAULT_LIFETIME))
        if not (isinstance(token, str) and token.isascii() and token.isprintable() and token):
            raise ValueError
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise Misconfigured("no OAuth token: the reply from `oauth.token_url` contains none; check the URL") from None
    return token, lifetime if 0 < lifetime < 1e9 else DEFAULT_LIFETIME
