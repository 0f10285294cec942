"""Creates journals: the only module that knows which backends there are.

A backend is a package beside this module. It declares its settings, and implements the contracts of base.py.
"""

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from btfeed.journal.base import Archive, DeadLetters, Journal, JournalUnavailable
from btfeed.journal.sqlite import check
from btfeed.journal.sqlite.archive import SqliteArchive
from btfeed.journal.sqlite.dead_letters import open_dead_letters
from btfeed.journal.sqlite.journal import SqliteJournal
from btfeed.journal.sqlite.settings import FIXED, SqliteSettings
from btfeed.telemetry.metrics import Metrics
from btfeed.worker import Worker
from sinks.settings import Settings
from sinks.shared.clock import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:  # Kafka's client takes long to import, and few need it
    from btfeed.journal.kafka.overview import GroupView as GroupView
    from btfeed.journal.kafka.overview import MemberView as MemberView
    from btfeed.journal.kafka.overview import Overview as Overview
    from btfeed.journal.kafka.overview import PartitionView as PartitionView
    from btfeed.journal.kafka.overview import TopicView as TopicView
    from btfeed.journal.kafka.settings import KafkaJournalSettings

    JournalSettings: TypeAlias = SqliteSettings | KafkaJournalSettings
else:
    JournalSettings = Settings
"""The [journal] table: the settings of any backend, told apart by `type`."""
EmbeddedSettings: TypeAlias = SqliteSettings
"""Those of the backend that needs nothing else: the default."""
DEFAULT_TYPE = "sqlite"
MAX_OCCURRENCES = 100_000
"""The default of `receiver.max_occurrences`."""
TYPES = (DEFAULT_TYPE, "kafka")
"""The values of `type`."""


def settings_of(name: str) -> type[Settings]:
    """The settings of the backend with this type. Raises LookupError."""
    if name == "kafka":
        from btfeed.journal.kafka.settings import KafkaJournalSettings

        return KafkaJournalSettings
    return {DEFAULT_TYPE: SqliteSettings}[name]


def fixed(settings: JournalSettings) -> Sequence[str]:
    """The keys that can't change while the journal is open."""
    if isinstance(settings, SqliteSettings):
        return FIXED
    from btfeed.journal.kafka.settings import CHANGEABLE

    return [key for key in type(settings).model_fields if key not in CHANGEABLE]


def create(
    settings: JournalSettings,
    starts: Mapping[str, str],
    metrics: Metrics,
    max_occurrences: int,
    clock: Clock = SYSTEM_CLOCK,
    *,
    max_body: int = 16 * 2**20,
    receives: bool = True,
    delivers: bool = True,
    worker: Worker | None = None,
) -> Journal:
    """The configured journal, not open yet. Needs a running event loop.

    starts           configured sink -> where it begins if it is new: "oldest" or "latest" post
    max_occurrences  what a rejected post may have when it is retried
    max_body         bytes of the largest post that the receiver takes
    receives         whether posts are appended
    delivers         whether outlets and dead letters are used. SQLite's journal always has both
    worker           which process this is, if several receive on this machine
    """
    if isinstance(settings, SqliteSettings):
        return SqliteJournal(settings, starts, metrics, max_occurrences, clock=clock)
    from btfeed.journal.kafka.journal import KafkaJournal

    return KafkaJournal(
        settings,
        starts,
        metrics,
        max_occurrences,
        max_body=max_body,
        receives=receives,
        delivers=delivers,
        clock=clock,
        worker=worker,
    )


def halves(settings: JournalSettings) -> bool:
    """Whether processes that only receive, and others that only deliver, can share the journal."""
    return not isinstance(settings, SqliteSettings)


def instance(settings: JournalSettings) -> str:
    """The name of this process among those that deliver from the same journal; "" if it is the only one."""
    return "" if isinstance(settings, SqliteSettings) else settings.instance_name


def identity(settings: JournalSettings) -> Mapping[str, str | None]:
    """Which journal this is, and who uses it: `instance` and `prefix`, both None if it is of one process."""
    if isinstance(settings, SqliteSettings):
        return {"instance": None, "prefix": None}
    return {"instance": settings.instance_name, "prefix": settings.prefix}


def transactional_id(settings: JournalSettings, sink: str, partition: int | None = None) -> str:
    """The name of the owner of a sink's transactions from one partition, or of one for a check that takes none of these
    away; "" if the journal has none."""
    if isinstance(settings, SqliteSettings):
        return ""
    from btfeed.journal.kafka.names import Names

    return Names(settings.prefix).transactional_id(sink, "check" if partition is None else partition)


async def overview(settings: JournalSettings, sinks: Sequence[str], max_body: int) -> "Overview":
    """What the brokers say of a journal that processes share, and of how far these sinks are. Raises JournalUnavailable.

    max_body: bytes of the largest post that receivers take
    """
    assert not isinstance(settings, SqliteSettings)
    from btfeed.journal.kafka.cluster import Cluster
    from sinks.base import SinkError

    cluster = Cluster(settings, max_body)
    try:
        return await cluster.overview(sinks)
    except SinkError as error:
        raise JournalUnavailable(str(error)) from None
    finally:
        await cluster.close()


async def leave(settings: JournalSettings, sinks: Sequence[str]) -> Sequence[str]:
    """Let other processes have the partitions of this instance, which has ended, at once. Returns the sinks of which it had
    some. Raises JournalUnavailable."""
    assert not isinstance(settings, SqliteSettings)
    from btfeed.journal.kafka import leaving

    return await leaving.leave(settings, sinks)


def dead_letters(
    settings: JournalSettings, max_occurrences: int = MAX_OCCURRENCES, journal: Journal | None = None
) -> AbstractContextManager[DeadLetters]:
    """The dead letters of the configured journal. Raises JournalUnavailable when entered.

    max_occurrences  what a rejected post may have when it is retried
    journal          the journal, if it is open in this process
    """
    if isinstance(settings, SqliteSettings):
        return open_dead_letters(Path(settings.directory))
    from btfeed.journal.kafka import letter_view
    from btfeed.journal.kafka.journal import KafkaJournal

    if isinstance(journal, KafkaJournal):
        return journal.dead_letters()
    return letter_view.open_dead_letters(settings, max_occurrences)


def archive(source: JournalSettings | Path, begin: int | None = None, end: int | None = None) -> Archive:
    """The posts that a journal, or the one in a directory, received from `begin` to before `end`, in milliseconds since
    the epoch. None: no limit. Raises JournalUnavailable."""
    if isinstance(source, Path | SqliteSettings):
        return SqliteArchive(source if isinstance(source, Path) else Path(source.directory), begin, end)
    from btfeed.journal.kafka.archive import KafkaArchive

    return KafkaArchive(source, begin, end)


def directories(settings: JournalSettings) -> Sequence[Path]:
    """Where the journal has files on this machine."""
    if isinstance(settings, SqliteSettings):
        return [Path(settings.directory)]
    return [Path(settings.spill.directory)] if settings.spill.enabled else []


def checks(
    settings: JournalSettings, max_body: int = 16 * 2**20, *, receives: bool = True, delivers: bool = True
) -> Iterator[tuple[str, str, Awaitable[str]]]:
    """What `btfeed check` tries: the key in [journal], what is true if it succeeds, and the attempt. It returns what else a
    user should know, a Found, or an empty text. It raises JournalInUse, or JournalUnavailable if the journal could not be
    opened. Await each attempt before you ask for the next one, which may depend on it.

    max_body            bytes of the largest post that the receiver takes
    receives, delivers  see `create`
    """
    if isinstance(settings, SqliteSettings):
        directory = Path(settings.directory)
        yield "directory", f"{directory} can be written", asyncio.to_thread(check.check_journal, directory)
        return
    from btfeed.journal.kafka import cluster

    yield from cluster.checks(settings, max_body, receives=receives, delivers=delivers)
