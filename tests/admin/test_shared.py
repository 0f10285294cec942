"""Pages that readers share: rendered once for all who may see the same, and never for anyone else."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout

from btfeed.admin import page
from btfeed.admin.events import INTERVAL
from btfeed.admin.server import Admin
from btfeed.admin.settings import AdminSettings
from btfeed.admin.shared import MAX_SHARED, SHARED, Shared
from btfeed.journal.base import Backlog, Kept
from btfeed.page.page import render
from tests.admin.parts import parts
from tests.support.clock import FakeClock, settle

DEADLINE = 20.0
TOKEN = "a-token-of-some-length"
SIGNED_IN = {"Authorization": f"Bearer {TOKEN}"}
ELSEWHERE = {"X-Forwarded-For": "192.0.2.1"}
"""A proxy stands for another machine."""
PRIVATE = "/secret/folder"
"""Is in the configuration, which is private."""


class Journal:
    """Of a server that has got nothing."""

    refusing = None

    async def backlog(self, sink: str) -> Backlog:
        return Backlog(0, 0.0)

    async def kept(self) -> list[Kept]:
        return []


class Listener:
    """Serves the page. rendered: how often it was rendered for whom and for which transaction."""

    def __init__(self, token: str | None) -> None:
        self.clock = FakeClock()
        self.rendered: Counter[tuple[bool, str]] = Counter()
        settings = AdminSettings.model_validate({"listen": "127.0.0.1:0", "token": token})
        shown = {"receiver": {"listen": "127.0.0.1:4321"}, "journal": {"directory": PRIVATE, "when_full": "refuse"}}
        self._admin = Admin(settings, replace(parts(Journal()), configuration=lambda: shown), clock=self.clock)

    def render(self, status: Any, history: Any, records: Any, transaction: str, *, session: bool) -> str:
        self.rendered[records is not None, transaction] += 1
        return render(status, history, records, transaction, session=session)

    async def __aenter__(self) -> "Listener":
        host, port = await self._admin.start()
        self.session = ClientSession(f"http://{host}:{port}", timeout=ClientTimeout(DEADLINE))
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.session.close()
        await self._admin.stop()

    async def get(self, path: str = "/", headers: dict[str, str] | None = None) -> tuple[int, str]:
        async with self.session.get(path, headers=headers) as answer:
            return answer.status, await answer.text()


@pytest.fixture
def token() -> str | None:
    return None


@pytest.fixture
async def listener(token: str | None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Listener]:
    async with Listener(token) as found:
        monkeypatch.setattr(page, "render", found.render)
        yield found


async def test_readers_at_the_same_moment_share_a_page(listener: Listener) -> None:
    """It is rendered once for three, and again for those who come a second later."""
    for turn in (1, 2):
        answers = await asyncio.gather(*(listener.get() for _ in range(3)))
        assert len(set(answers)) == 1
        assert answers[0][0] == 200
        assert listener.rendered == {(True, ""): turn}
        await listener.clock.advance(SHARED)


async def test_each_event_has_its_own_page(listener: Listener) -> None:
    """Whoever asks for the page after an event gets one that was rendered after it, the same for all."""
    async with listener.session.get("/events") as events:
        for rendered in (1, 3):
            async with asyncio.timeout(DEADLINE):
                while await events.content.readline() != b"event: snapshot\n":
                    pass
            await asyncio.gather(*(listener.get() for _ in range(3)))
            assert listener.rendered == {(True, ""): rendered}
            await listener.clock.advance(INTERVAL - SHARED / 2)
            await listener.get()  # shortly before the next event
            await listener.clock.advance(SHARED / 2)


@pytest.mark.parametrize("first", [{}, ELSEWHERE], ids=["this machine first", "another machine first"])
async def test_other_machines_get_no_page_of_this_one(listener: Listener, first: dict[str, str]) -> None:
    """Whoever asks first: they share one of their own, which has nothing that is private."""
    await listener.get(headers=first)
    own, *others = await asyncio.gather(listener.get(), *(listener.get(headers=ELSEWHERE) for _ in range(3)))
    assert PRIVATE in own[1]
    assert len(set(others)) == 1
    assert PRIVATE not in others[0][1]
    assert listener.rendered == {(True, ""): 1, (False, ""): 1}


@pytest.mark.parametrize("token", [TOKEN])
async def test_without_the_token_there_is_no_page_that_others_got(listener: Listener) -> None:
    """While a page is kept for who has the token, and while it is made."""
    for _ in range(2):
        signed_in, *others = await asyncio.gather(
            listener.get(headers=SIGNED_IN),
            listener.get(),
            listener.get("/?transaction=search", ELSEWHERE),
            listener.get(headers={"Authorization": "Bearer wrong"}),
        )
        assert (signed_in[0], PRIVATE in signed_in[1]) == (200, True)
        for status, text in others:
            assert status == 401
            assert PRIVATE not in text
    assert listener.rendered == {(True, ""): 1}


async def test_each_choice_of_records_has_its_page(listener: Listener) -> None:
    """The filter is that of the request. On other machines, which see no records, it makes no difference."""
    for headers in ({}, ELSEWHERE):
        paths = ("/", "/?transaction=search", "/?transaction=login", "/?transaction=search")
        texts = [text for _, text in await asyncio.gather(*(listener.get(path, headers) for path in paths))]
        shown = [[f'value="{name}"' in text for name in ("search", "login")] for text in texts]
        if not headers:
            assert shown == [[False, False], [True, False], [False, True], [True, False]]
    assert listener.rendered == {(True, ""): 1, (True, "search"): 1, (True, "login"): 1, (False, ""): 1}


async def test_who_changes_something_sees_it_at_once(listener: Listener) -> None:
    """The next page is rendered anew, also if the change failed; not for a request that was refused."""
    await listener.get()
    async with listener.session.post("/sinks/nowhere/pause", data="") as refused:
        assert refused.status in (404, 415)
    await listener.get()
    assert listener.rendered == {(True, ""): 1}
    async with listener.session.post("/dead-letters/retry", json={}) as changed:
        assert changed.status != 415
    await listener.get()
    assert listener.rendered == {(True, ""): 2}


# Any answer


async def test_a_failure_is_not_kept() -> None:
    """All who waited for the answer get it; the next request makes another."""
    results: list[bytes | Exception] = [ValueError("a bug"), b"well"]

    async def make(key: str) -> bytes:
        await asyncio.sleep(0)
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    shared = Shared(make, FakeClock())
    failed = await asyncio.gather(shared.get("a"), shared.get("a"), return_exceptions=True)
    assert [str(each) for each in failed] == ["a bug", "a bug"]
    assert await shared.get("a") == b"well"
    shared.close()


async def test_a_reader_that_goes_takes_the_answer_from_nobody() -> None:
    """The others still get it."""
    go_on = asyncio.Event()

    async def make(key: str) -> bytes:
        await go_on.wait()
        return b"well"

    shared = Shared(make, FakeClock())
    first, second = (asyncio.create_task(shared.get("a")) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    go_on.set()
    assert await second == b"well"
    shared.close()


async def test_what_was_begun_before_a_change_is_not_given_to_those_who_come_after_it() -> None:
    """Those who waited already get the old answer."""
    made: list[asyncio.Future[bytes]] = []

    async def make(key: str) -> bytes:
        made.append(asyncio.get_running_loop().create_future())
        return await made[-1]

    clock = FakeClock()
    shared = Shared(make, clock)
    before = asyncio.create_task(shared.get("a"))
    await settle()
    shared.forget()
    after = asyncio.create_task(shared.get("a"))
    await settle()
    made[0].set_result(b"old")
    await clock.advance(SHARED / 2)
    made[1].set_result(b"new")
    await clock.advance(SHARED / 2)  # the old one would be given no longer
    async with asyncio.timeout(DEADLINE):
        assert (await before, await after, await shared.get("a")) == (b"old", b"new", b"new")
    assert len(made) == 2
    shared.close()


async def test_only_so_many_are_kept() -> None:
    """What is beyond them is made for each request, and nothing is kept for longer than it is shared."""
    made: Counter[int] = Counter()

    async def make(key: int) -> bytes:
        made[key] += 1
        return b"%d" % key

    clock = FakeClock()
    shared = Shared(make, clock)
    for _ in range(2):
        for key in range(MAX_SHARED + 1):
            assert await shared.get(key) == b"%d" % key
    assert [made[key] for key in range(MAX_SHARED + 1)] == [1] * MAX_SHARED + [2]
    await clock.advance(SHARED)
    assert clock.waiting == 0
    await shared.get(MAX_SHARED)
    await shared.get(MAX_SHARED)
    assert made[MAX_SHARED] == 3
    shared.close()
