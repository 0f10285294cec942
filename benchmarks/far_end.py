"""The destination of records, as a measurement sees it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FarEnd:
    """An empty destination.

    sinks     the tables [sinks.NAME] that lead to it
    count     how many records have arrived; with several sinks, at the slowest
    progress  a number that changes while records arrive, and costs far less than counting
    pids      its processes, whose CPU is reported separately
    """

    sinks: Mapping[str, Mapping[str, Any]]
    count: Callable[[], int]
    progress: Callable[[], int]
    pids: Mapping[str, int] = field(default_factory=dict)
