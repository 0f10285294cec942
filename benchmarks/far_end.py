"""Where records go, as a measurement sees it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FarEnd:
    """An empty one.

    sinks     the tables [sinks.NAME] that lead to it
    count     how many records have arrived there since it was made; of several sinks, at the slowest
    progress  a number that changes while records arrive; unlike counting, it costs next to nothing
    pids      its processes, whose CPU is told apart
    """

    sinks: Mapping[str, Mapping[str, Any]]
    count: Callable[[], int]
    progress: Callable[[], int]
    pids: Mapping[str, int] = field(default_factory=dict)
