"""Sessions of browsers: a cookie stands for the token."""

from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from typing import Any

import pytest
from aiohttp import ClientSession, DummyCookieJar, web

from btfeed.admin import session
from btfeed.admin.access import Access, trusted
from btfeed.admin.settings import AdminSettings
from btfeed.telemetry.metrics import Metrics
from tests.admin.serving import serve
from tests.support.clock import FakeClock


class Listener:
    """Answers at /, /status and /tap with whether the request is trusted."""

    def __init__(self, token: str | None) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.access = Access(self.settings(token), self.metrics, self.clock)

    @staticmethod
    def settings(token: str | None) -> AdminSettings:
        return AdminSettings.model_validate({"token": token})

    async def __aenter__(self) -> "Listener":
        async def answer(request: web.Request) -> web.Response:
            return web.Response(text=str(trusted(request)))

        app = web.Application(middlewares=[self.access.middleware])
        own = [web.get(path, answer) for path in ("/", "/status", "/tap")] + [web.post("/sinks/a/pause", answer)]
        self._runner, port = await serve(own + self.access.routes(), app)
        self._session = ClientSession(f"http://127.0.0.1:{port}", cookie_jar=DummyCookieJar())
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()
        await self._runner.cleanup()
        self.access.close()

    async def ask(self, path: str, cookie: str = "", method: str = "GET", **more: Any) -> tuple[int, str, str]:
        """Status, text and Set-Cookie, or where it sends the browser."""
        headers = more.pop("headers", {}) | ({"Cookie": cookie} if cookie else {})
        async with self._session.request(method, path, headers=headers, allow_redirects=False, **more) as response:
            told = response.headers.get("Set-Cookie", response.headers.get("Location", ""))
            return response.status, await response.text(), told

    async def sign_in(self) -> str:
        """The cookie, as a browser sends it."""
        status, _, told = await self.ask("/login", method="POST", json={"token": "s3cret"})
        assert status == 204
        return told.partition(";")[0]


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with Listener("s3cret") as found:
        yield found


async def test_a_cookie_stands_for_the_token(listener: Listener) -> None:
    """Without one there is only the page itself, which then shows nothing private."""
    assert (await listener.ask("/"))[:2] == (200, "False")
    assert (await listener.ask("/status"))[0] == 401
    cookie = await listener.sign_in()
    assert "s3cret" not in cookie
    for path in ("/", "/status", "/tap"):
        assert (await listener.ask(path, cookie))[:2] == (200, "True")
    assert (await listener.ask("/sinks/a/pause", cookie, "POST", json={}))[:2] == (200, "True")


async def test_scripts_and_other_sites_cannot_use_the_cookie(listener: Listener) -> None:
    """It is HttpOnly and SameSite=Strict, and Secure if a proxy with TLS passed the request on."""
    _, _, told = await listener.ask("/login", method="POST", json={"token": "s3cret"})
    assert {"HttpOnly", "Path=/", "SameSite=Strict", f"Max-Age={session.LIFETIME}"} <= set(told.split("; "))
    assert "Secure" not in told
    https = {"X-Forwarded-Proto": "https"}
    _, _, told = await listener.ask("/login", method="POST", json={"token": "s3cret"}, headers=https)
    assert "Secure" in told


async def test_a_form_can_sign_in(listener: Listener) -> None:
    """For pages without script: it goes back to the page, also if the token was wrong, which is counted."""
    status, _, told = await listener.ask("/login", method="POST", data={"token": " s3cret "})
    assert (status, bool(SimpleCookie(told))) == (303, True)
    assert (await listener.ask("/login", method="POST", data={"token": "other"}))[::2] == (303, "/?wrong=token")
    for body in ({"token": "other"}, {}, {"token": 1}, ["token"]):
        assert (await listener.ask("/login", method="POST", json=body))[::2] == (401, "")
    text = {
        sample.labels["reason"]: sample.value for sample in next(iter(listener.metrics.admin_refused.collect())).samples
    }
    assert text == {"login": 5}


async def test_pages_of_other_servers_sign_nobody_in(listener: Listener) -> None:
    """Nor can they use the cookie, should a browser send it."""
    evil = {"Origin": "http://evil.example"}
    assert (await listener.ask("/login", method="POST", data={"token": "s3cret"}, headers=evil))[::2] == (403, "")
    cookie = await listener.sign_in()
    assert (await listener.ask("/sinks/a/pause", cookie, "POST", json={}, headers=evil))[0] == 403
    assert (await listener.ask("/tap", cookie, headers=evil))[0] == 403
    assert (await listener.ask("/sinks/a/pause", cookie, "POST", data={"a": "b"}))[0] == 415


async def test_a_session_ends(listener: Listener) -> None:
    """After its time, with another token, and in the browser when it signs out."""
    cookie = await listener.sign_in()
    listener.clock.now += session.LIFETIME - 1
    assert (await listener.ask("/status", cookie))[0] == 200
    listener.clock.now += 1
    assert (await listener.ask("/status", cookie))[0] == 401
    cookie = await listener.sign_in()
    listener.access.reconfigure(listener.settings("new"))
    assert (await listener.ask("/status", cookie))[0] == 401
    listener.access.reconfigure(listener.settings("s3cret"))
    status, _, told = await listener.ask("/logout", cookie, "POST", json={})
    assert status == 204
    assert "Max-Age=0" in told


async def test_a_cookie_that_was_made_up_is_none(listener: Listener) -> None:
    """Whatever is in it."""
    name, _, value = (await listener.sign_in()).partition("=")
    end, _, signature = value.partition(".")
    for forged in ("", ".", "x", f"{int(end) + 1}.{signature}", f"{end}.{signature[:-1]}", f"{end}.é", f"-1.{signature}"):
        assert (await listener.ask("/status", f"{name}={forged}"))[0] == 401


async def test_without_a_token_there_is_nothing_to_sign_in_to() -> None:
    """This machine may see everything."""
    async with Listener(None) as listener:
        assert (await listener.ask("/login", method="POST", json={"token": ""}))[0] == 404
        assert (await listener.ask("/"))[:2] == (200, "True")
        assert (await listener.ask("/", headers={"Host": "rebound.example"}))[:2] == (200, "False")
        assert (await listener.ask("/", headers={"X-Forwarded-For": "192.0.2.7"}))[:2] == (200, "False")
