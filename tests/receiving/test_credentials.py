"""Posts with credentials, and requests without."""

import base64
from pathlib import Path
from typing import Any

import pytest

from btfeed.config import load
from btfeed.receiving.settings import ReceiverSettings
from tests.support.posts import sample_visit
from tests.support.rawhttp import request, site

BODY = sample_visit()
AUTH: dict[str, Any] = {"basic_auth": {"username": "appmon", "password": "geh:eim"}, "bearer_tokens": ["one", "two"]}
RIGHT = base64.b64encode(b"appmon:geh:eim").decode()
WRONG = base64.b64encode(b"appmon:geheim").decode()


@pytest.mark.parametrize("value", [f"Basic {RIGHT}", f"basic {RIGHT}", f"BASIC  {RIGHT}", "Bearer one", "bearer two"])
async def test_accepts_posts_with_credentials(tmp_path: Path, value: str) -> None:
    """Basic or any of the tokens; the scheme is case-insensitive."""
    async with site(tmp_path, **AUTH) as running:
        assert (await running.ask(request(BODY, f"Authorization: {value}"))).status == 200
        assert running.posts() == [BODY]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_accepts_passwords_in_either_encoding(tmp_path: Path, encoding: str) -> None:
    """New clients encode credentials as UTF-8, old ones as Latin-1. The response names btfeed, not its HTTP library."""
    value = base64.b64encode("appmon:schlüssel".encode(encoding)).decode()
    async with site(tmp_path, basic_auth={"username": "appmon", "password": "schlüssel"}) as running:
        answer = await running.ask(request(BODY, f"Authorization: Basic {value}"))
        assert (answer.status, answer.headers["server"]) == (200, "btfeed")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Basic",
        f"Basic {WRONG}",
        f"Basic {RIGHT}x",
        f"Bearer {RIGHT}",
        "Bearer three",
        "one",
        "Bearer ",
        "\xff\xfe",
    ],
)
@pytest.mark.parametrize("line", ["POST / HTTP/1.1", "GET / HTTP/1.1", "PUT /other HTTP/1.1"])
async def test_rejects_wrong_credentials_before_the_body(tmp_path: Path, value: str | None, line: str) -> None:
    """Every request gets a 401 as soon as its header has arrived, with the accepted schemes."""
    headers = [] if value is None else [f"Authorization: {value}"]
    async with site(tmp_path, **AUTH) as running, running.connect() as connection:
        await connection.send(request(BODY, *headers, line=line)[: -len(BODY)])
        answer = await connection.response()
        assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Basic realm="btfeed", Bearer')
        assert (running.posts(), running.refused()) == ([], {"unauthorized": 1})


@pytest.mark.parametrize("chosen", ["basic_auth", "bearer_tokens"])
async def test_asks_only_for_the_credentials_configured(tmp_path: Path, chosen: str) -> None:
    """A token does not pass as a password, nor a password as a token. After a 401 the connection stays usable."""
    sent = {"basic_auth": f"Basic {RIGHT}", "bearer_tokens": "Bearer one"}
    async with site(tmp_path, **{chosen: AUTH[chosen]}) as running, running.connect() as client:
        for name, value in sent.items():
            await client.send(request(BODY, f"Authorization: {value}"))
            assert (await client.response()).status == (200 if name == chosen else 401)


def test_an_empty_token_is_rejected(tmp_path: Path) -> None:
    """It would let in every client that sends an empty one."""
    with pytest.raises(ValueError, match="bearer_tokens"):
        ReceiverSettings.model_validate({"bearer_tokens": [""]})
    assert load(None).receiver.basic_auth is None
