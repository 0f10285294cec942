"""What the connections of one server share, and how many of them there may be."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from btfeed.http.limits import Limits
from btfeed.http.refusals import Refusals
from btfeed.http.request import Request
from btfeed.http.response import Response
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.warnings import SummedWarnings

Handler = Callable[[Request], Awaitable[Response | None]]
"""Answers one request. None cuts the connection off without a response."""


class Occupant(Protocol):
    """What takes one of the places of `Limits.max_connections`. peer: the client's address."""

    peer: str

    @property
    def idle_since(self) -> float | None:
        """The loop's time since which no request is under way; None while one is."""

    def has_unread(self) -> bool:
        """Whether the machine has received data on it that is not read yet."""

    def close_if_idle(self) -> None: ...

    def abort(self, reason: str) -> None:
        """Cut it off at once. reason: of the posts that this loses."""


@dataclass(slots=True)
class ServerState:
    """What the connections of one server share."""

    handler: Handler
    metrics: Metrics
    limits: Limits
    warnings: SummedWarnings
    refusals: Refusals
    connections: set[Occupant] = field(default_factory=set)
    draining: bool = False

    def enter(self, new: Occupant, instead_of: Occupant | None = None) -> bool:
        """Give `new` a place, if need be that of the connection that has been idle longest. False if there is none."""
        if instead_of:
            self.connections.discard(instead_of)
        if len(self.connections) >= self.limits.max_connections and not self._make_room():
            return False
        self.connections.add(new)
        return True

    def _make_room(self) -> bool:
        idle = [(since, other) for other in self.connections if (since := other.idle_since) is not None]
        for _, other in sorted(idle, key=lambda pair: pair[0]):
            if not other.has_unread():
                self.connections.discard(other)
                other.abort("evicted")
                self.metrics.evicted_connections.inc()
                self.warnings.warn("idle connection closed to make room", "evicted", peer=other.peer)
                return True
        return False
