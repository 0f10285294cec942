"""Who may ask what: the token, requests from this machine, and those that a browser was made to send."""

from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import ClientSession, web

from btfeed.admin.access import MARK, OPEN, TAP, Access, mark
from btfeed.admin.settings import AdminSettings
from btfeed.telemetry.metrics import Metrics
from tests.admin.serving import serve

JSON = {"Content-Type": "application/json"}
TOKEN = {"Authorization": "Bearer s3cret"}


class Listener:
    """A server that answers everything that Access lets through. peer: the address that requests seem to come from."""

    def __init__(self, token: str | None, peer: str = "127.0.0.1", listen: str = "127.0.0.1:0") -> None:
        self.metrics = Metrics()
        self.access = Access(AdminSettings.model_validate({"listen": listen, "token": token}), self.metrics)
        self.peer = peer

    async def __aenter__(self) -> "Listener":
        @web.middleware
        async def seen_from(request: web.Request, handler: Any) -> web.StreamResponse:
            return await self.access.middleware(request.clone(remote=self.peer), handler)

        async def answer(request: web.Request) -> web.Response:
            return web.Response(text="done")

        app = web.Application(middlewares=[seen_from])
        app.on_response_prepare.append(mark)
        read = [web.get(path, answer) for path in ("/status", "/healthz", "/readyz", TAP)]
        self._runner, self.port = await serve([*read, web.post("/sinks/a/pause", answer)], app)
        self._session = ClientSession(f"http://127.0.0.1:{self.port}")
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()
        await self._runner.cleanup()
        self.access.close()

    async def ask(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> int:
        body = b"{}" if method == "POST" else None
        async with self._session.request(method, path, data=body, headers=headers) as response:
            assert response.headers[MARK[0]] == MARK[1]
            return response.status

    def refused(self) -> dict[str, int]:
        samples = [sample for family in self.metrics.admin_refused.collect() for sample in family.samples]
        return {s.labels["reason"]: int(s.value) for s in samples if s.name.endswith("_total")}


async def pause(listener: Listener, headers: Mapping[str, str]) -> int:
    return await listener.ask("/sinks/a/pause", headers, "POST")


async def test_with_a_token_everything_but_probes_needs_it() -> None:
    """Reading too, from this machine too, and paths that don't exist. Others get a 401, which is counted."""
    async with Listener("s3cret") as listener:
        for path in OPEN:
            assert await listener.ask(path) == 200
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "s3cret"}, {"Authorization": "Bearer é"}):
            assert await listener.ask("/status", headers) == 401
        assert await listener.ask("/nothing") == 401
        assert await listener.ask(TAP) == 401
        assert await pause(listener, JSON) == 401
        assert listener.refused() == {"token": 7}
        assert await listener.ask("/status", TOKEN) == 200
        assert await listener.ask("/status", {"Authorization": "bearer  s3cret"}) == 200
        assert await listener.ask("/nothing", TOKEN) == 404


async def test_with_the_token_other_machines_may_change_things() -> None:
    """Whatever name they use for this one, and through a proxy."""
    async with Listener("s3cret", peer="192.0.2.7") as listener:
        assert await pause(listener, JSON | TOKEN | {"Host": "btfeed.example", "X-Forwarded-For": "192.0.2.8"}) == 200
        assert await listener.ask(TAP, TOKEN) == 200


async def test_a_new_token_holds_from_the_next_request_on() -> None:
    """And the old one does not."""
    async with Listener("s3cret") as listener:
        listener.access.reconfigure(AdminSettings.model_validate({"token": "new"}))
        assert await listener.ask("/status", TOKEN) == 401
        assert await listener.ask("/status", {"Authorization": "Bearer new"}) == 200


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
async def test_without_a_token_this_machine_may_do_everything(peer: str) -> None:
    """Over any loopback address."""
    async with Listener(None, peer) as listener:
        assert await pause(listener, JSON) == 200
        assert await pause(listener, JSON | {"Origin": f"http://127.0.0.1:{listener.port}"}) == 200
        assert await listener.ask(TAP) == 200
        assert await listener.ask("/sinks/a/pause") == 405


@pytest.mark.parametrize("peer", ["192.0.2.7", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", ""])
async def test_without_a_token_other_machines_only_read_figures(peer: str) -> None:
    """No records, which are business data. Each refusal is counted."""
    async with Listener(None, peer) as listener:
        assert await listener.ask("/status") == 200
        assert await pause(listener, JSON) == 403
        assert await listener.ask(TAP) == 403
        assert listener.refused() == {"not_local": 2}


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
async def test_what_a_proxy_on_this_machine_passes_on_is_not_from_here(header: str) -> None:
    """Its peer has a loopback address, but its client may be anywhere."""
    async with Listener(None) as listener:
        assert await pause(listener, JSON | {header: "192.0.2.7"}) == 403
        assert await listener.ask("/status", {header: "192.0.2.7"}) == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1", 200), ("LOCALHOST", 200), ("[::1]:1", 200), ("127.0.0.1", 200), ("Admin.Example", 200),
     ("rebound.example", 403), ("rebound.example:4322", 403), ("127.0.0.1.rebound.example", 403), ("", 403)],
)  # fmt: skip
async def test_without_a_token_the_host_must_be_this_machine(host: str, status: int) -> None:
    """An address, localhost or the host in admin.listen: a page whose name was bound to 127.0.0.1 is refused."""
    async with Listener(None, listen="admin.example:4322") as listener:
        assert await pause(listener, JSON | {"Host": host}) == status
        assert await pause(listener, JSON | {"Host": host, "Origin": f"http://{host}"}) == status


@pytest.mark.parametrize("token", [None, "s3cret"])
async def test_pages_of_other_servers_change_nothing(token: str | None) -> None:
    """Neither with JSON and their origin, nor with what a browser sends without asking first."""
    async with Listener(token) as listener:
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
            assert await pause(listener, JSON | TOKEN | {"Origin": origin}) == 403
            assert await listener.ask(TAP, TOKEN | {"Origin": origin}) == 403
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            assert await pause(listener, TOKEN | {"Content-Type": content_type}) == 415
        assert listener.refused() == {"origin": 6, "content_type": 3}
        assert await pause(listener, TOKEN | {"Content-Type": "application/json; charset=utf-8"}) == 200
