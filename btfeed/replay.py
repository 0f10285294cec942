"""Replay: posts from files to a url, as AppMon posts them."""

import asyncio
import base64
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp

from btfeed import post

TIMEOUT = aiohttp.ClientTimeout(connect=10, sock_read=10)
"""AppMon's own patience, in seconds."""
ANSWER = 200
"""Characters of a refusal that are told."""


@dataclass(slots=True)
class Summary:
    """What became of the posts. refused: by what was answered, or "no answer"."""

    posts: int = 0
    occurrences: int = 0
    bytes: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def refusals(self) -> int:
        return sum(self.refused.values())

    def refuse(self, why: str) -> None:
        self.refused[why] = self.refused.get(why, 0) + 1


async def replay(
    bodies: Iterator[bytes],
    url: str,
    *,
    rate: float | None = None,
    connections: int = 1,
    basic_auth: tuple[str, str] | None = None,
    progress: Callable[[int], object] = lambda size: None,
) -> Summary:
    """Post `bodies` to `url` over as many kept-alive `connections`.

    rate: posts a second, all connections together; None as fast as answers come. progress: called with the size of each
    body that was answered. A post is sent once, whatever is answered.
    """
    summary = Summary()
    started = time.perf_counter()
    numbered = enumerate(bodies)

    async def connection(session: aiohttp.ClientSession) -> None:
        for number, body in numbered:
            if rate:
                await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
            await _send(session, url, body, summary)
            progress(len(body))

    connector = aiohttp.TCPConnector(limit=connections)
    headers = {"Content-Type": "application/octet-stream"}
    if basic_auth:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(basic_auth).encode()).decode()
    async with (
        aiohttp.ClientSession(
            connector=connector, timeout=TIMEOUT, headers=headers, skip_auto_headers=["Accept-Encoding"]
        ) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(connections):
            group.create_task(connection(session))
    summary.seconds = time.perf_counter() - started
    return summary


async def _send(session: aiohttp.ClientSession, url: str, body: bytes, summary: Summary) -> None:
    try:
        async with session.post(url, data=body, allow_redirects=False) as response:
            answer = " ".join((await response.text(errors="replace")).split())[:ANSWER]
            status = response.status
    except (aiohttp.ClientError, TimeoutError) as error:
        summary.refuse(f"no answer: {str(error) or type(error).__name__}")
        return
    if status >= 400:
        summary.refuse(f"{status} {response.reason}: {answer}" if answer else f"{status} {response.reason}")
        return
    summary.posts += 1
    summary.bytes += len(body)
    with suppress(post.Malformed):  # another server than ours may take anything
        summary.occurrences += sum(len(bt.occurrences) for bt in post.parse(body).businessTransactions)
