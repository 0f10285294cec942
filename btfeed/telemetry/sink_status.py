"""The current state of a sink: its delivery loop writes it, the admin listener shows it."""

from dataclasses import dataclass
from typing import Literal

State = Literal["opening", "running", "unavailable", "misconfigured", "rejecting", "stopped"]


@dataclass(slots=True)
class SinkStatus:
    """What /status shows of a sink, except its backlog. Numbers count records since the start.

    last_error_time  milliseconds since the epoch
    """

    state: State = "opening"
    delivered: int = 0
    retried: int = 0
    dead_letters: int = 0
    last_error: str | None = None
    last_error_time: int | None = None
