"""Dead letters over HTTP: the newest, retry and export, as the commands do it."""

import asyncio
import base64
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from btfeed.admin.letters import MAX_CONTENT, LetterRoutes, Letters
from btfeed.journal.base import ALL, DeadLetter, DeadLetters, JournalUnavailable, Selection
from btfeed.journal.memory import MemoryJournal
from sinks.batch import Transaction
from tests.admin.parts import Nothing, no_dead_letters, parts
from tests.admin.serving import serve
from tests.support.harness import DEADLINE, Server, until
from tests.support.posts import mixed, sample_purepath

HOSTILE = "<script>alert(1)</script>\u202e"
RECORD = b'{"timestamp":"2026-01-16T10:05:11.482Z","event.name":"' + HOSTILE.encode() + b'"}'


class Listener:
    """Serves the dead letters of a journal in memory, or those that `opens` gives."""

    def __init__(self, opens: Any = None) -> None:
        self.kept = MemoryJournal({}).dead_letters
        self.letters = Letters(parts(Nothing(), dead_letters=opens or (lambda: nullcontext(self.kept))))

    async def __aenter__(self) -> "Listener":
        self._runner, port = await serve(LetterRoutes(self.letters).routes())
        self._session = ClientSession(f"http://127.0.0.1:{port}")
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.letters.close()
        await self._session.close()
        await self._runner.cleanup()

    def keep(self, number: int, sink: str = "a", cause: str = "refused", body: bytes = RECORD) -> None:
        transaction = Transaction(HOSTILE, "", "", "", "visit")
        more: Any = {"event_id": f"id-{number}", "transaction": transaction, "cause": cause}
        self.kept.add(DeadLetter("record", sink, f"reason {number}", number, body, **more))

    async def ask(self, path: str = "", **query: Any) -> tuple[int, str]:
        async with self._session.get(f"/dead-letters{path}", params=query) as response:
            return response.status, await response.text()

    async def ids(self, **query: Any) -> list[str]:
        return [letter["event_id"] for letter in json.loads((await self.ask(**query))[1])["letters"]]

    async def retry(self, what: Any) -> tuple[int, Any]:
        async with self._session.post("/dead-letters/retry", json=what) as response:
            return response.status, await response.text()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with Listener() as found:
        for number in (1, 2, 3):
            found.keep(number)
        found.keep(4, "b", "expired")
        found.kept.add(DeadLetter("post", "", "it is no post", 5, b"\xff\0", cause="malformed"))
        yield found


async def test_the_newest_are_listed_page_by_page(listener: Listener) -> None:
    """All of them, or those of a sink or a cause."""
    assert await listener.ids() == [None, "id-4", "id-3", "id-2", "id-1"]
    assert await listener.ids(sink="a") == ["id-3", "id-2", "id-1"]
    assert await listener.ids(sink="b", cause="expired") == ["id-4"]
    assert await listener.ids(sink="") == [None]
    assert await listener.ids(cause="nothing") == []
    before = json.loads((await listener.ask(limit=2))[1])["before"]
    assert await listener.ids(limit=2, before=before) == ["id-3", "id-2"]
    assert json.loads((await listener.ask(before=1))[1]) == {"letters": [], "before": None}
    for query in ({"limit": "x"}, {"limit": "0"}, {"limit": "-1"}, {"before": "-1"}, {"before": "9" * 30}):
        status, text = await listener.ask(**query)
        assert (status, text) == (400, "limit must be 1 or more, and before 0 or more, in digits\n")


async def test_a_letter_is_shown_with_its_content(listener: Listener) -> None:
    """A record as it is, whatever is in it; anything else in base64. Long ones are cut."""
    listener.keep(6, body=b'{"x":"' + b"y" * 100_000 + b'"}')
    listener.keep(7, body=b"damaged")
    damaged, long, post, *_, record = json.loads((await listener.ask())[1])["letters"]
    assert record["content"].encode() == RECORD
    assert (record["transaction"], record["reason"], record["time"], record["tries"]) == (HOSTILE, "reason 1", 1, 1)
    assert (post["kind"], base64.b64decode(post["content"]), post["transaction"]) == ("post", b"\xff\0", None)
    assert (len(long["content"]), long["content"][-1], long["bytes"]) == (MAX_CONTENT, "…", 100_008)
    assert base64.b64decode(damaged["content"]) == b"damaged"


async def test_one_or_all_of_a_cause_are_retried(listener: Listener) -> None:
    """The answer says how many are marked, and how many can't be."""
    [newest] = json.loads((await listener.ask(sink="a", limit=1))[1])["letters"]
    assert await listener.retry({"ids": [newest["id"]]}) == (200, '{"marked":1,"left":0}')
    assert listener.kept.marked == {newest["id"]}
    assert await listener.retry({"sink": "a", "cause": "refused"}) == (200, '{"marked":3,"left":0}')
    assert await listener.retry({"sink": "b", "cause": "expired"}) == (200, '{"marked":0,"left":1}')
    assert listener.kept.marked == {1, 2, 3}


async def test_what_is_no_choice_retries_nothing(listener: Listener) -> None:
    """All of everything must be said in full."""
    choices: list[Any] = [{}, {"sink": "a"}, {"cause": "refused"}, {"ids": []}, {"ids": "all"}, {"all": True}, []]
    for what in choices:
        status, text = await listener.retry(what)
        assert (status, text.endswith("\n")) == (400, True)
    assert not listener.kept.marked


async def test_an_export_has_all_of_a_choice(listener: Listener) -> None:
    """As NDJSON, to be saved as a file."""
    async with listener._session.get("/dead-letters/export", params={"sink": "a"}) as response:
        assert response.headers["Content-Disposition"].startswith("attachment")
        lines = [json.loads(line) for line in (await response.text()).splitlines()]
    assert [line["event_id"] for line in lines] == ["id-1", "id-2", "id-3"]
    assert lines[0]["record"] == json.loads(RECORD)
    assert await listener.ask("/export", sink="nobody") == (200, "")


async def test_a_journal_that_fails_is_told() -> None:
    """With a 503 each."""
    async with Listener(no_dead_letters) as listener:
        for path in ("", "/export"):
            assert await listener.ask(path) == (503, "the journal failed: no journal\n")
        assert await listener.retry({"ids": [1]}) == (503, "the journal failed: no journal\n")


async def test_an_export_that_fails_on_the_way_is_seen_to_be_incomplete() -> None:
    """The connection is cut off."""

    class Broken:
        def select(self, selection: Selection = ALL) -> Iterator[DeadLetter]:
            yield from (DeadLetter("post", "", "r", 1, b"x", id=number) for number in range(1, 501))
            raise JournalUnavailable("the disk failed")

    async with Listener(lambda: nullcontext(Broken())) as listener:
        with pytest.raises(Exception, match=r".") as raised:
            await listener.ask("/export")
        assert "ClientPayloadError" in repr(raised) or "ClientConnection" in repr(raised)


async def test_a_retry_of_many_ends_when_the_server_stops() -> None:
    """What is not marked then is told."""

    class Many:
        asked = 0

        def select(self, selection: Selection = ALL) -> Iterator[DeadLetter]:
            return (DeadLetter("post", "", "r", 1, b"x", id=number) for number in range(1, 100_001))

        def count(self, selection: Selection = ALL) -> int:
            return 100_000

        def retry(self, selection: Selection, sinks: Any) -> int:
            self.asked += 1
            running.letters.close()
            return len(selection.ids)

    many = Many()
    async with Listener(lambda: nullcontext(many)) as running:
        assert await running.retry({"sink": "", "cause": "malformed"}) == (200, '{"marked":500,"left":99500}')
        assert many.asked == 1


async def test_few_requests_use_the_journal_at_a_time() -> None:
    """The others wait for their turn."""
    open_now, most = 0, 0

    @contextmanager
    def opened() -> Iterator[DeadLetters]:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        yield running.kept
        open_now -= 1

    async with Listener(opened) as running:
        assert await asyncio.gather(*(running.ids() for _ in range(20))) == [[]] * 20
    assert 1 <= most <= 2


def test_a_dead_letter_is_retried_in_a_running_server(tmp_path: Path) -> None:
    """It is delivered, and gone. Without JSON nothing is changed."""
    sink = f'[sinks.files]\ntype = "file"\ndirectory = "{tmp_path / "files"}"\n'
    with Server(tmp_path, f'[validation]\nunexpected = "dead-letter"\n{sink}') as server:
        assert server.post(sample_purepath()) == (200, "")
        assert server.post(mixed(2)) == (200, "")
        until(lambda: server.status()["dead_letters"], "kept")
        [letter] = json.loads(server.get("/dead-letters?sink=&cause=invalid"))["letters"]
        assert letter["reason"] == "unexpected visitId"

        def retry(content_type: str) -> Any:
            body = json.dumps({"ids": [letter["id"]]}).encode()
            request = urllib.request.Request(f"{server.admin_url}/dead-letters/retry", body, {"Content-Type": content_type})
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                return json.loads(answer.read())

        with pytest.raises(urllib.error.HTTPError, match="415"):
            retry("text/plain")
        assert retry("application/json") == {"marked": 1, "left": 0}
        records = server.delivered(3)
        assert letter["event_id"] in {record["event.id"] for record in records}
        until(lambda: not server.status()["dead_letters"], "gone")
        assert server.get("/dead-letters/export") == ""
