"""The current state of a sink: its deliveries write it, the admin listener shows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

State = Literal["opening", "running", "unavailable", "misconfigured", "rejecting", "idle", "paused", "stopped"]

WORST: tuple[State, ...] = ("misconfigured", "unavailable", "rejecting", "opening", "running", "stopped")
"""States of the deliveries of a sink, the worst first. The first one that any of them is in is the sink's."""
WORKING: tuple[State, ...] = ("running", "idle")
WORDS: Mapping[str, str] = {
    "opening": "connecting",
    "running": "delivering",
    "unavailable": "not available",
    "rejecting": "rejects everything",
    "idle": "other processes deliver",
}
"""Words for states whose names say too little."""


@dataclass(slots=True)
class BlockedDestination:
    """A destination that takes nothing for now. since: milliseconds since the epoch. waiting: records that wait for it."""

    reason: str
    since: int
    waiting: int = 0


class ShownStatus(Protocol):
    """What /status shows of a sink, except its backlog. Numbers count records since the start.

    last_error_time  milliseconds since the epoch
    blocked          destinations that take nothing, by name
    """

    @property
    def state(self) -> State: ...
    @property
    def delivered(self) -> int: ...
    @property
    def retried(self) -> int: ...
    @property
    def dead_letters(self) -> int: ...
    @property
    def last_error(self) -> str | None: ...
    @property
    def last_error_time(self) -> int | None: ...
    @property
    def blocked(self) -> Mapping[str, BlockedDestination]: ...


@dataclass(slots=True)
class SinkStatus:
    """The same of one delivery, which changes it.

    whole  what it is a part of, if anything
    told   errors that were logged of the sink since it last worked
    """

    state: State = "opening"
    delivered: int = 0
    retried: int = 0
    dead_letters: int = 0
    last_error: str | None = None
    last_error_time: int | None = None
    blocked: dict[str, BlockedDestination] = field(default_factory=dict)
    whole: "WholeStatus | None" = field(default=None, repr=False, compare=False)
    told: set[tuple[State, str]] = field(default_factory=set, repr=False, compare=False)

    @property
    def shown(self) -> State:
        """The state of the sink as a whole."""
        return self.whole.state if self.whole else self.state


class WholeStatus:
    """The status of a sink with a delivery for each of its partitions: sums, and the worst of their states.

    resting  the state while there is no delivery: idle, paused or stopped
    problem  tells what keeps this process from its partitions; None if nothing does
    conflict whether that is another process with its name
    """

    def __init__(self) -> None:
        self.resting: State = "idle"
        self.problem: Callable[[], str | None] = lambda: None
        self.conflict: Callable[[], bool] = lambda: False
        self._parts: dict[int, SinkStatus] = {}
        self._running: set[int] = set()
        self._told: set[tuple[State, str]] = set()

    def begin(self, partition: int) -> SinkStatus:
        """The status of a delivery that begins. Its counts go on where the last one of that partition ended."""
        part = self._parts.setdefault(partition, SinkStatus(whole=self, told=self._told))
        part.state = "opening"
        part.blocked.clear()
        self._running.add(partition)
        return part

    def end(self, partition: int) -> None:
        """That delivery has ended: only its counts are shown."""
        self._running.discard(partition)

    @property
    def partitions(self) -> int:
        """How many deliveries there are."""
        return len(self._running)

    @property
    def state(self) -> State:
        if self.resting == "idle" and self.conflict():
            return "misconfigured"
        if self.resting == "idle" and not self._running and self.problem():
            return "unavailable"
        states = {self._parts[partition].state for partition in self._running}
        return next((state for state in WORST if state in states), self.resting)

    @property
    def delivered(self) -> int:
        return sum(part.delivered for part in self._parts.values())

    @property
    def retried(self) -> int:
        return sum(part.retried for part in self._parts.values())

    @property
    def dead_letters(self) -> int:
        return sum(part.dead_letters for part in self._parts.values())

    @property
    def last_error(self) -> str | None:
        last = self._last_failed()
        return self.problem() or (last.last_error if last else None)

    @property
    def last_error_time(self) -> int | None:
        last = self._last_failed()
        return last.last_error_time if last and not self.problem() else None

    @property
    def blocked(self) -> dict[str, BlockedDestination]:
        """The reason is that of the delivery that met it first."""
        found: dict[str, BlockedDestination] = {}
        for partition in sorted(self._running):
            for name, each in self._parts[partition].blocked.items():
                known = found.get(name)
                first = each if known is None or each.since < known.since else known
                found[name] = replace(first, waiting=each.waiting + (known.waiting if known else 0))
        return found

    def _last_failed(self) -> SinkStatus | None:
        failed = [part for part in self._parts.values() if part.last_error_time is not None]
        return max(failed, key=lambda part: part.last_error_time or 0, default=None)
