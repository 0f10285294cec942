"""Passes over hosts that have failed, for a time that does not depend on the system's clock, and logs which they are."""

import time
from collections import Counter
from typing import Any

from elastic_transport import BaseNode, NodePool

from sinks.shared.clock import Clock

WARNING_INTERVAL = 60.0
"""Seconds between two warnings about one host."""


class HostLog:
    """Logs which of several hosts fail: the first failure at once, then a sum every WARNING_INTERVAL seconds."""

    def __init__(self, log: Any, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._failures: Counter[str] = Counter()
        self._next: dict[str, float] = {}
        self._down: set[str] = set()

    def failed(self, host: str) -> None:
        self._failures[host] += 1
        now = self._clock.monotonic()
        if now >= self._next.get(host, now):
            self._log.warning("host unavailable, others are asked", host=host, count=self._failures.pop(host))
            self._next[host] = now + WARNING_INTERVAL
            self._down.add(host)

    def works(self, host: str) -> None:
        """Called for a host that had failed."""
        if host in self._down:
            self._down.remove(host)
            self._log.info("host available again", host=host)


class HostPool(NodePool):
    """The client's own pool, but by the monotonic clock. By the system's, a host that failed just before the clock was set
    back a day would be passed over for a day.

    log  is told which hosts fail
    """

    log: HostLog | None = None

    def mark_dead(self, node: BaseNode, _now: float | None = None) -> None:
        super().mark_dead(node, time.monotonic() if _now is None else _now)
        if self.log:
            self.log.failed(node.base_url)

    def mark_live(self, node: BaseNode) -> None:
        if self.log and node.config in self._dead_consecutive_failures:
            self.log.works(node.base_url)
        super().mark_live(node)

    def resurrect(self, force: bool = False) -> BaseNode | None:  # type: ignore[override]  # its overloads mean the same
        dead = self._dead_nodes.queue  # sorted by when their time is over
        if not force and not (dead and dead[0][0] <= time.monotonic()):
            return None
        return super().resurrect(force=True)
