"""What a server's stop leaves in the log."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed.journal.base import JournalUnavailable
from btfeed.posts.post import Post
from tests.app.reloading import Running
from tests.support import posts
from tests.support.harness import until_async
from tests.support.rawhttp import request


async def test_posts_that_the_journal_fails_at_its_end_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, although their connections are gone by then. Another process may have locked the journal's file."""
    waiting: list[asyncio.Future[bytes]] = []

    def append(post: Post) -> asyncio.Future[bytes]:
        waiting.append(asyncio.get_running_loop().create_future())
        return waiting[-1]

    it = Running(tmp_path, receiver={"header_timeout": "100ms", "body_timeout": "100ms"})
    journal = it.server.journal
    close = journal.close

    async def fail_and_close() -> None:
        await close()
        for future in waiting:
            future.set_exception(JournalUnavailable("the journal's file is locked"))
        await asyncio.sleep(0)  # as when it waits for its thread

    monkeypatch.setattr(journal, "append", append)
    monkeypatch.setattr(journal, "close", fail_and_close)
    await it.server.start()
    async with it.connect() as one, it.connect() as two, it.connect() as three:
        for number, client in enumerate((one, two, three)):
            await client.send(request(posts.mixed(1, seed=number)))
        await until_async(lambda: len(waiting) == 3, "all wait")
        with capture_logs() as logged:
            await it.server.stop()
    lines = [(line["reason"], line["count"]) for line in logged if line["event"] == "post lost"]
    assert lines == [("journal_unavailable", 1), ("journal_unavailable", 2)]
