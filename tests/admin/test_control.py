"""The HTTP API of sinks: what it takes and answers, as docs/operations.md says."""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession

from btfeed.admin.control import Conflict, Rewind, SinkRoutes, UnknownSink
from btfeed.journal.base import Cursor, JournalError, Move
from tests.admin.serving import serve

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
SECTION = re.split(r"^##", PAGE.partition("### Over HTTP")[2], maxsplit=1, flags=re.MULTILINE)[0]
JSON = {"Content-Type": "application/json"}


class FakeControl:
    """One sink, "my sink", which is not paused; others have something that prevents an action."""

    shared = False

    def __init__(self) -> None:
        self.paused: dict[str, int] = {}
        self.asked: list[Rewind] = []

    def type_of(self, sink: str) -> str:
        return "file"

    async def positions(self, sink: str) -> Mapping[int, int]:
        return {0: 5}

    async def pause(self, sink: str) -> bool:
        _prevent(sink)
        changed = sink not in self.paused
        self.paused[sink] = 1
        return changed

    async def resume(self, sink: str) -> bool:
        _prevent(sink)
        return self.paused.pop(sink, None) is not None

    async def rewind(self, sink: str, to: Rewind) -> Sequence[Move]:
        _prevent(sink)
        self.asked.append(to)
        return [Move(0, Cursor(3, 0), 2, 0, 1_000)]


def _prevent(sink: str) -> None:
    if sink in ("conflict", "broken"):
        raise Conflict("can't") if sink == "conflict" else JournalError("broken")
    if sink not in ("my sink", "archive"):
        raise UnknownSink("the sinks are my sink")


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    runner, port = await serve(SinkRoutes(FakeControl()).routes())
    async with ClientSession(f"http://127.0.0.1:{port}", headers=JSON) as session:
        yield session
    await runner.cleanup()


async def post(client: ClientSession, path: str, body: str = "") -> tuple[int, Any]:
    async with client.post(path, data=body) as response:
        text = await response.text()
        return response.status, json.loads(text) if response.content_type == "application/json" else text


async def test_the_requests_of_the_documentation_are_answered(client: ClientSession) -> None:
    """With the keys that its table names, and no others."""
    commands = re.findall(r"^curl .*-d '(.*?)' http://127.0.0.1:4322(/\S+)$", SECTION, re.MULTILINE)
    assert len(commands) == 2
    rows = dict(re.findall(r"^\| `POST /sinks/NAME/(\w+)` \|(.*)\|$", SECTION, re.MULTILINE))
    assert rows.keys() == {"pause", "resume", "rewind"}
    for body, path in commands:
        status, answer = await post(client, path, body)
        assert status == 200
        row = rows[path.rpartition("/")[2]]
        for key in (*answer, *(answer.get("partitions", [{}])[0])):
            assert f"`{key}`" in row
    for field in msgspec.structs.fields(Rewind):
        assert f"`{field.name}`" in rows["rewind"]


async def test_pause_and_resume_say_whether_they_changed_anything(client: ClientSession) -> None:
    """With a body or without one, for a name with a space in it."""
    for action, paused, changed in (("pause", True, True), ("pause", True, False), ("resume", False, True)):
        wanted = {"sink": "my sink", "paused": paused, "changed": changed, "others": False}
        assert await post(client, f"/sinks/my%20sink/{action}", "{}" if changed else "") == (200, wanted)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("archive/rewind", "", 400),
        ("archive/rewind", "{}", 400),
        ("archive/rewind", '{"time": 1, "positions": {"0": 1}}', 400),
        ("archive/rewind", '{"tme": 1}', 400),
        ("none/rewind", '{"time": 1}', 404),
        ("none/pause", "", 404),
        ("conflict/resume", "", 409),
        ("broken/pause", "", 503),
    ],
)
async def test_an_error_is_a_line_with_a_status_of_the_documentation(
    client: ClientSession, path: str, body: str, status: int
) -> None:
    """Which says what to do."""
    found, text = await post(client, f"/sinks/{path}", body)
    assert found == status
    assert text.count("\n") == 1
    assert re.search(rf"^\| (\d+, )*{status}\b", SECTION, re.MULTILINE)
