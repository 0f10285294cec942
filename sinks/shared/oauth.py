"""OAuth client credentials: a token, and another one before it ends; one request for one at a time."""

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any

import aiohttp
import msgspec
from pydantic import AfterValidator, Field

from sinks.base import Misconfigured, Unavailable
from sinks.settings import Settings
from sinks.shared.http import Client, explain, retry_after, web_url

LIFE = 0.8
"""How much of a token's life it is used for."""
SHORTEST = 60.0
"""Seconds that a token is taken to live where its giver does not say."""


class OAuthSettings(Settings):
    """An OAuth client.

    client_id      as Dynatrace's account management shows it
    client_secret  likewise; take it from the environment
    token_url      where tokens are given
    scope          asked for; the client must have it
    resource       `urn:dtaccount:...`, where the client needs it
    """

    client_id: Annotated[str, Field(min_length=1)]
    client_secret: Annotated[str, Field(min_length=1, repr=False)]
    token_url: Annotated[str, AfterValidator(web_url)] = "https://sso.dynatrace.com/sso/oauth2/token"  # noqa: S105 - no secret
    scope: str = "storage:events:write"
    resource: str | None = None


class OAuth:
    """The tokens of one client. They are in no message: `client` knows them as its secrets."""

    def __init__(self, settings: OAuthSettings, client: Client) -> None:
        self._settings = settings
        self._client = client
        self._lock = asyncio.Lock()
        self._token: str | None = None
        self._until = 0.0  # by the monotonic clock
        self._worked = False  # somebody took it already

    async def token(self) -> str:
        """One that still has some time to live. Raises Unavailable or Misconfigured."""
        async with self._lock:
            if self._token is None or time.monotonic() >= self._until:
                await self._refresh()
            assert self._token
            return self._token

    def worked(self, token: str) -> None:
        """`token` was accepted."""
        self._worked |= token == self._token

    def spoilt(self, token: str) -> bool:
        """`token` was not accepted. True where another one may be: it had been, or there is another by now."""
        if token != self._token:
            return True
        self._token = None
        return self._worked

    async def _refresh(self) -> None:
        asked = time.monotonic()
        form = {
            "grant_type": "client_credentials",
            "client_id": self._settings.client_id,
            "client_secret": self._settings.client_secret,
        }
        for name in ("scope", "resource"):
            if value := getattr(self._settings, name):
                form[name] = value
        try:
            status, headers, body = await self._client.post(self._settings.token_url, aiohttp.FormData(form), {})
        except Unavailable as error:  # what became of it does not matter: another token may be asked for
            raise Unavailable(f"no token: {error}", error.retry_after) from error
        old = [self._token] if self._token else []  # replies to it may still be under way
        self._token, life = granted(status, headers, body)
        self._client.secrets = [self._settings.client_secret, *old, self._token]
        self._until = asked + LIFE * life
        self._worked = False


def granted(status: int, headers: Mapping[str, str], body: bytes) -> tuple[str, float]:
    """The token in the reply of its giver, and its life in seconds. Raises Unavailable or Misconfigured."""
    if status in (408, 429) or status >= 500:
        raise Unavailable(f"no token: {explain(status, body)}", retry_after(headers))
    if status != 200:
        hint = "see oauth: client_id, client_secret, scope and resource"
        raise Misconfigured(f"no token: {explain(status, body)}; {hint}")
    try:
        answer: Any = msgspec.json.decode(body)
        token, life = answer["access_token"], float(answer.get("expires_in", SHORTEST))
        if not (isinstance(token, str) and token.isascii() and token.isprintable() and token):
            raise ValueError
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError):
        raise Misconfigured("no token: what answers at oauth.token_url gives none") from None
    return token, life if 0 < life < 1e9 else SHORTEST
