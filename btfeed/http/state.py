"""What the connections of one server share, and how many of them there may be."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from btfeed.http.limits import Limits
from btfeed.http.refusals import Refusals
from btfeed.http.request import Request
from btfeed.http.response import Response
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.warnings import SummedWarnings

Handler = Callable[[Request], Awaitable[Response | None]]
"""Answers one request. None cuts the connection off without a response."""
Shortcut = Callable[[Request, Callable[[Response | None], None]], bool]
"""Begins to answer a request whose body has arrived, and calls the function with what a Handler would return. That costs no
task. False: it does not answer this one, and nothing has happened."""


STALLED_AFTER = 1.0
"""Seconds. A client sends a header at once, and a handshake takes a few round trips."""


class Standing(IntEnum):
    """Which connections give way to a new one first."""

    SILENT = 0  # nothing has arrived
    USED = 1  # idle after a request, as AppMon's own may be
    STALLED = 2  # for STALLED_AFTER seconds with only part of a TLS handshake or of a header


class Occupant(Protocol):
    """What takes one of the places of `Limits.max_connections`. peer: the client's address."""

    peer: str

    @property
    def gives_way(self) -> tuple[Standing, float] | None:
        """How it stands, and the loop's time since when; None while a request is under way whose header has arrived."""

    def has_unread(self) -> bool:
        """Whether the machine has received data on it that is not read yet."""

    def close_if_idle(self, since: float) -> None:
        """Close it if it has been idle since that time of the loop, and nothing has arrived."""

    def abort(self, reason: str) -> None:
        """Cut it off at once. reason: of the posts that this loses."""


@dataclass(slots=True)
class ServerState:
    """What the connections of one server share."""

    handler: Handler
    shortcut: Shortcut
    metrics: Metrics
    limits: Limits
    warnings: SummedWarnings
    refusals: Refusals
    connections: set[Occupant] = field(default_factory=set)
    draining: bool = False

    def enter(self, new: Occupant, instead_of: Occupant | None = None) -> bool:
        """Give `new` a place, if need be that of the connection that gives way first. False if none does."""
        if instead_of:
            self.connections.discard(instead_of)
        if len(self.connections) >= self.limits.max_connections and not self._make_room():
            return False
        self.connections.add(new)
        return True

    def fit(self) -> None:
        """Close idle connections until there are no more than the limit, which may have been lowered."""
        idle = [other for standing, other in self._giving_way() if standing is not Standing.STALLED]
        for other in idle[: max(0, len(self.connections) - self.limits.max_connections)]:
            self._evict(other)

    def _make_room(self) -> bool:
        """Close the connection that gives way first, if there is one."""
        for _, other in self._giving_way():
            self._evict(other)
            return True
        return False

    def _giving_way(self) -> Iterator[tuple[Standing, Occupant]]:
        """The connections that give way, in that order."""
        stalled = asyncio.get_running_loop().time() - STALLED_AFTER
        found = [(order, other) for other in self.connections if (order := other.gives_way)]
        for (standing, since), other in sorted(found, key=lambda pair: pair[0]):
            if not (standing is Standing.STALLED and since >= stalled) and not other.has_unread():
                yield standing, other

    def _evict(self, other: Occupant) -> None:
        self.connections.discard(other)
        other.abort("too_many_connections")
        self.metrics.evicted_connections.inc()
        self.warnings.warn("idle connection closed to make room", "evicted", peer=other.peer)
