"""Creates journals: the only module that knows which backends there are.

A backend is a package beside this module. It declares its settings, and implements the contracts of base.py.
"""

import asyncio
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from btfeed.journal.base import Archive, DeadLetters, Journal
from btfeed.journal.sqlite import check
from btfeed.journal.sqlite.archive import SqliteArchive
from btfeed.journal.sqlite.dead_letters import open_dead_letters
from btfeed.journal.sqlite.journal import SqliteJournal
from btfeed.journal.sqlite.settings import SqliteSettings
from btfeed.telemetry.metrics import Metrics
from sinks.shared.clock import SYSTEM_CLOCK, Clock

FIXED = ("type", "directory")
"""Keys that can't change while the journal is open."""
JournalSettings = SqliteSettings
"""The [journal] table: the settings of any backend, told apart by `type`."""


def create(
    settings: JournalSettings,
    starts: Mapping[str, str],
    metrics: Metrics,
    max_occurrences: int,
    clock: Clock = SYSTEM_CLOCK,
) -> Journal:
    """The configured journal, not open yet. Needs a running event loop.

    starts           configured sink -> where it begins if it is new: "oldest" or "latest" post
    max_occurrences  what a rejected post may have when it is retried
    """
    return SqliteJournal(settings, starts, metrics, max_occurrences, clock=clock)


def dead_letters(settings: JournalSettings) -> AbstractContextManager[DeadLetters]:
    """The dead letters of the configured journal. Raises JournalUnavailable when entered."""
    return open_dead_letters(Path(settings.directory))


def archive(source: JournalSettings | Path, begin: int | None = None, end: int | None = None) -> Archive:
    """The posts that a journal, or the one in a directory, received from `begin` to before `end`, in milliseconds since
    the epoch. None: no limit. Raises JournalUnavailable."""
    return SqliteArchive(source if isinstance(source, Path) else Path(source.directory), begin, end)


def checks(settings: JournalSettings) -> Iterator[tuple[str, str, Awaitable[str]]]:
    """What `btfeed check` tries: the key in [journal], what is true if it succeeds, and the attempt. It returns what else a
    user should know, or an empty text. It raises JournalInUse, or JournalUnavailable if the journal could not be opened."""
    directory = Path(settings.directory)
    yield "directory", f"{directory} can be written", asyncio.to_thread(check.check_journal, directory)
