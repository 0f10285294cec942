"""Under load: memory stays bounded behind a sink that has stopped, and a backlog does not starve the receiver."""

import asyncio
import sys
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest

from btfeed.journal.base import OLDEST
from tests.support.harness import Server, peak_memory, until
from tests.support.posts import mixed
from tests.support.sending import send_all
from tests.system.test_sinks import post_json

MEBIBYTE = 2**20
OCCURRENCES = 1_000
STALLED = [sys.executable, "-m", "tests.support.stalled"]
"""btfeed with a file sink whose writes never return."""
ANSWERED_WITHIN = 10.0
"""Seconds after which AppMon gives a post up."""
ENOUGH = 20
"""Posts while a backlog is delivered."""


def bodies(posts: int) -> Iterator[bytes]:
    return islice(cycle([mixed(OCCURRENCES, seed) for seed in range(20)]), posts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("posts", "limit"),
    [
        pytest.param(1_000, 256, id="short"),
        pytest.param(5_000, 512, id="long", marks=pytest.mark.chaos),
    ],
)
def test_a_sink_that_stopped_costs_no_memory(tmp_path: Path, posts: int, limit: int) -> None:
    """While one sink hangs, up to five million occurrences are taken, and memory stays under a limit, in MiB."""
    with Server(tmp_path, program=STALLED) as server:
        summary = asyncio.run(send_all(bodies(posts), server.url, connections=8))
        assert summary.occurrences == posts * OCCURRENCES
        assert not summary.refused
        sink = server.status()["sinks"]["files"]
        assert (sink["backlog_posts"], sink["delivered"]) == (posts, 0)
        assert peak_memory(server.pid) < limit * MEBIBYTE


@pytest.mark.slow
def test_posts_are_answered_while_a_backlog_is_delivered(tmp_path: Path) -> None:
    """A backlog of 400,000 occurrences is delivered at full speed, and posts are answered in time meanwhile."""
    posts = 400
    with Server(tmp_path, program=STALLED) as server:
        asyncio.run(send_all(bodies(posts), server.url, connections=8))
        server.kill()
    with Server(tmp_path) as server:
        seconds = asyncio.run(post_steadily(server))
        while len(seconds) < ENOUGH:  # something else kept the client from posting until the backlog was gone
            assert post_json(f"{server.admin_url}/sinks/files/rewind", b'{"time": %d}' % OLDEST)[0] == 200
            seconds += asyncio.run(post_steadily(server))
        assert max(seconds) < ANSWERED_WITHIN
        until(lambda: server.status()["sinks"]["files"]["backlog_posts"] == 0, "the backlog is delivered", 120)
        assert server.status()["sinks"]["files"]["delivered"] >= posts * OCCURRENCES + len(seconds) * 10


async def post_steadily(server: Server) -> list[float]:
    """Post one after the other while there is a backlog; the seconds that each post took. Each is answered 200."""
    seconds: list[float] = []
    while (await asyncio.to_thread(server.status))["sinks"]["files"]["backlog_posts"] > 100:
        for _ in range(5):
            summary = await send_all(iter([mixed(10, 1_000 + len(seconds))]), server.url)
            assert summary.posts == 1, summary.refused
            seconds.append(summary.seconds)
            await asyncio.sleep(0.005)
    return seconds
