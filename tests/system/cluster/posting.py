"""A client that posts once and never again, in a thread of its own, while things happen to the cluster."""

import asyncio
import sys
import threading
import time
from pathlib import Path
from typing import Self

from tests.support.harness import DEADLINE, until
from tests.support.never_retries import Client, Sent
from tests.support.witness import Witness

SLACK = 0.5
"""Seconds that an answer may take beyond the journal's `timeout`, on a machine that holds nobody up."""


class Posting:
    """Posts at `rate` to a port of this machine until the block ends, which it does when every post has its answer."""

    def __init__(self, directory: Path, port: int, seed: int, rate: float, occurrences: int) -> None:
        self.client = Client(port, seed, rate=rate, occurrences=occurrences)
        self._witness = Witness(directory)
        self._thread = threading.Thread(target=self._run, name="posting", daemon=True)
        self._began = threading.Event()

    def __enter__(self) -> Self:
        self._witness.__enter__()
        self._thread.start()
        assert self._began.wait(DEADLINE)
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._witness.__exit__()

    def stop(self) -> None:
        """Post no more, and wait for the answers."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.client.stop)
            self._thread.join(2 * DEADLINE)
        assert not self._thread.is_alive()

    def more(self, posts: int) -> None:
        """Wait for that many more answers."""
        enough = len(self.client.sent) + posts
        until(lambda: len(self.client.sent) >= enough, f"{posts} more posts answered", 2 * DEADLINE)

    def waiting(self, posts: int) -> None:
        """Wait until that many posts that began after this have no answer yet."""
        moment = time.monotonic()
        until(lambda: sum(post.began > moment for post in tuple(self.client.open)) >= posts, "posts wait", 2 * DEADLINE)

    def late(self, timeout: float) -> list[str]:
        """Posts that took longer than `timeout` and SLACK, and longer than this machine held everybody up."""
        return [self._told(post) for post in self.client.sent if post.seconds > timeout + SLACK + self._held_up(post)]

    def tell(self) -> None:
        """Print how long answers took."""
        times = sorted(post.seconds for post in self.client.sent)
        told = ", ".join(f"{name} {times[int(share * (len(times) - 1))]:.3f}" for name, share in _SHARES.items())
        slowest = max(self.client.sent, key=lambda post: post.seconds)
        sys.stdout.write(f"{len(times)} posts, seconds: {told}; the slowest {self._told(slowest)}\n")

    def _held_up(self, post: Sent) -> float:
        return self._witness.held_up(post.began, post.began + post.seconds)

    def _told(self, post: Sent) -> str:
        return f"took {post.seconds:.2f} s while the machine held up a witness for {self._held_up(post):.2f} s"

    def _run(self) -> None:
        asyncio.run(self._post())

    async def _post(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began.set()
        await self.client.run()


_SHARES = {"median": 0.5, "99 of 100": 0.99, "slowest": 1.0}
