"""The current state of a sink: its delivery loop writes it, the admin listener shows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["opening", "running", "unavailable", "misconfigured", "rejecting", "paused", "stopped"]

WORDS: Mapping[str, str] = {
    "opening": "connecting",
    "running": "delivering",
    "unavailable": "not available",
    "rejecting": "rejects everything",
}
"""Words for states whose names say too little."""


@dataclass(slots=True)
class BlockedDestination:
    """A destination that takes nothing for now. since: milliseconds since the epoch. waiting: records that wait for it."""

    reason: str
    since: int
    waiting: int = 0


@dataclass(slots=True)
class SinkStatus:
    """What /status shows of a sink, except its backlog. Numbers count records since the start.

    last_error_time  milliseconds since the epoch
    blocked          destinations that take nothing, by name
    """

    state: State = "opening"
    delivered: int = 0
    retried: int = 0
    dead_letters: int = 0
    last_error: str | None = None
    last_error_time: int | None = None
    blocked: dict[str, BlockedDestination] = field(default_factory=dict)
