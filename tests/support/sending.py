"""Sends bodies to a URL, for tests that need posts on the wire."""

from collections.abc import Callable, Iterable, Iterator

from btfeed.traffic.http_target import HttpTarget
from btfeed.traffic.replay import Recorded, Schedule
from btfeed.traffic.sending import Sender, SendSummary
from sinks.shared.clock import SYSTEM_CLOCK, Clock


class PostList:
    """A PostSource of given posts."""

    blocking = False

    def __init__(self, posts: Iterable[Recorded]) -> None:
        self._posts = posts
        self.total: int | None = None
        self.done = 0
        self.broken: list[str] = []

    def posts(self) -> Iterator[Recorded]:
        return iter(self._posts)


async def send_all(
    bodies: Iterable[bytes],
    url: str,
    *,
    rate: float | None = None,
    connections: int = 1,
    basic_auth: tuple[str, str] | None = None,
    on_done: Callable[[], object] = lambda: None,
    clock: Clock = SYSTEM_CLOCK,
) -> SendSummary:
    """Send each body once, over as many kept-alive connections. rate: posts per second; None as fast as answers arrive."""
    target = HttpTarget(url, connections=connections, authorization=basic_auth)
    sender = Sender(target, connections=connections, on_done=on_done, clock=clock)
    return await sender.send(Schedule(rate=rate).posts(PostList(map(Recorded, bodies))))
