"""How a sink is doing: written by its delivery loop, shown by the admin listener."""

from dataclasses import dataclass
from typing import Literal

State = Literal["opening", "running", "unavailable", "misconfigured", "stopped"]


@dataclass(slots=True)
class SinkStatus:
    """What /status says of a sink besides its backlog. last_error_time: milliseconds since the epoch."""

    state: State = "opening"
    delivered: int = 0
    retried: int = 0
    dead_letters: int = 0
    last_error: str | None = None
    last_error_time: int | None = None
