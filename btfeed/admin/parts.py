"""What the admin listener needs of the server that it belongs to."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from btfeed.admin.control import Control
from btfeed.journal.base import Backlogs, DeadLetters, Kept, Wants
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import ShownStatus
from btfeed.telemetry.tap import Taps
from sinks.batch import Batch


@dataclass(frozen=True, slots=True)
class Parts:
    """
    kept           gives the dead letters that are kept, counted
    why_not_ready  why a post would not be accepted now, None if it would
    configuration  what the server runs with, without secrets: its tables, as in the file
    dead_letters   opens the dead letters of the journal; used on a thread. Raises JournalUnavailable
    wants          by sink, which records it wants
    identity       `role`: the command; `instance` and `prefix` of a journal that several processes share, else None
    newest         the records of the newest posts in the journal, as they are mapped now. Raises JournalError
    """

    journal: Backlogs
    kept: Callable[[], Awaitable[Sequence[Kept]]]
    why_not_ready: Callable[[], str | None]
    sinks: Mapping[str, ShownStatus]
    control: Control
    taps: Taps
    metrics: Metrics
    version: str
    identity: Mapping[str, str | None]
    configuration: Callable[[], Mapping[str, Any]]
    dead_letters: Callable[[], AbstractContextManager[DeadLetters]]
    wants: Callable[[], Mapping[str, Wants]]
    newest: Callable[[], Awaitable[Batch]]
