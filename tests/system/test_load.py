"""Under load: memory stays bounded behind a sink that has stopped, and a backlog does not starve the receiver."""

import asyncio
import sys
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

from tests.support.harness import Server, peak_memory, until
from tests.support.posts import mixed
from tests.support.sending import send_all

MEBIBYTE = 2**20


def bodies(posts: int, occurrences: int) -> Iterator[bytes]:
    return islice(cycle([mixed(occurrences, seed) for seed in range(20)]), posts)


def test_a_sink_that_stopped_costs_no_memory_for_five_million_occurrences(tmp_path: Path) -> None:
    """While one sink hangs for the whole run, all is taken, and RSS stays under 512 MiB."""
    with Server(tmp_path, program=[sys.executable, "-m", "tests.app.stalled"]) as server:
        summary = asyncio.run(send_all(bodies(5_000, 1_000), server.url, connections=8))
        assert summary.occurrences == 5_000_000
        assert not summary.refused
        sink = server.status()["sinks"]["files"]
        assert (sink["backlog_posts"], sink["delivered"]) == (5_000, 0)
        assert peak_memory(server.pid) < 512 * MEBIBYTE


def test_posts_are_answered_while_a_backlog_is_delivered(tmp_path: Path) -> None:
    """A million occurrences wait and are delivered at full speed; AppMon's ten seconds are never needed meanwhile."""
    with Server(tmp_path, program=[sys.executable, "-m", "tests.app.stalled"]) as server:
        asyncio.run(send_all(bodies(1_000, 1_000), server.url, connections=8))
        server.kill()
    with Server(tmp_path) as server:
        slowest = asyncio.run(steady(server))
        assert len(slowest) >= 20, "the backlog was gone before the posts were sent"
        assert max(slowest) < 10.0
        until(lambda: server.status()["sinks"]["files"]["backlog_posts"] == 0, "the backlog is delivered", 120)
        assert server.status()["sinks"]["files"]["delivered"] == 1_000_000 + len(slowest) * 10


async def steady(server: Server) -> list[float]:
    """Post one after the other at a steady rate while there is a backlog. The seconds that each took; all get a 200."""
    seconds: list[float] = []
    while (await asyncio.to_thread(server.status))["sinks"]["files"]["backlog_posts"] > 100:
        for _ in range(5):
            summary = await send_all(iter([mixed(10, 1_000 + len(seconds))]), server.url)
            assert summary.posts == 1, summary.refused
            seconds.append(summary.seconds)
            await asyncio.sleep(0.005)
    return seconds
