"""Reloads: the server takes over a changed configuration while it runs, all of it or nothing.

First everything is built that can fail: the configuration itself, certificates, the mapper, sinks. The last of it are the
cursors of new sinks, in the journal. From then on nothing is expected to fail: the receiver takes its new settings between
two requests, and sinks that are removed or changed stop, while the others go on. If something fails all the same, the
server stops, rather than run with half of a configuration.
"""

import asyncio
import ssl
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
from pydantic import BaseModel

from btfeed.app.advice import log_advice
from btfeed.app.aside import aside
from btfeed.app.certificates import show_validity
from btfeed.app.parts import create_sink
from btfeed.app.server import Server, starts
from btfeed.config import Config
from btfeed.faults import ConfigError, Faults
from btfeed.journal import create as journals
from btfeed.journal.base import JournalError
from btfeed.records.mapper import PostMapper, create_mapper
from btfeed.telemetry.metrics import Reload
from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()
T = TypeVar("T")

TABLES = ("receiver", "admin", "journal", "validation", "record", "opentelemetry")
FIXED = {
    "receiver": ("listen", "workers"),
    "admin": ("listen",),
    "opentelemetry": ("enabled", "traces", "metrics_interval", "attributes"),
}
"""The keys of each table that can't change without a restart. Those of [journal] depend on its type."""
RESTART = "can't change while btfeed runs: restart it to change this"

READ_TIMEOUT = 30.0
"""Seconds that the files of a configuration have to be read."""

NOT_RELOADED = "configuration not reloaded, btfeed goes on as before"
"""The log event."""

FileState = Mapping[str, tuple[int, ...]]
"""The files that a table names -> what changes when one is replaced or written."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How two configurations differ. tables: those that changed, but for the sinks, which are listed by name."""

    tables: frozenset[str]
    added: frozenset[str]
    removed: frozenset[str]
    changed: frozenset[str]

    @property
    def maps_anew(self) -> bool:
        """Whether posts are mapped in another way, which concerns every sink."""
        return bool(self.tables & {"record", "validation"})

    def named(self) -> dict[str, list[str]]:
        """The names of tables, for the log."""
        sinks = {"added": self.added, "removed": self.removed, "changed": self.changed}
        found = {kind: sorted(f"sinks.{name}" for name in names) for kind, names in sinks.items()}
        return found | {"changed": sorted(self.tables) + found["changed"]}


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A configuration, and by table the state of the files that it names, such as certificates."""

    config: Config
    files: Mapping[str, FileState]

    def changes(self, new: "_Loaded") -> Changes:
        tables = {
            name for name in TABLES if self._differs(new, name, getattr(self.config, name), getattr(new.config, name))
        }
        old_sinks, new_sinks = self.config.sinks, new.config.sinks
        both = old_sinks.keys() & new_sinks.keys()
        changed = {name for name in both if self._differs(new, f"sinks.{name}", old_sinks[name], new_sinks[name])}
        added, removed = new_sinks.keys() - both, old_sinks.keys() - both
        return Changes(frozenset(tables), frozenset(added), frozenset(removed), frozenset(changed))

    def _differs(self, new: "_Loaded", table: str, one: object, other: object) -> bool:
        return one != other or self.files.get(table) != new.files.get(table)


@dataclass(frozen=True, slots=True)
class _Built:
    """What a new configuration needs that could have failed. mapper: None if posts are mapped as before."""

    tls: ssl.SSLContext | None
    mapper: PostMapper | None


class Reloader:
    """Reloads the configuration of a running server. Make it before the server starts."""

    def __init__(
        self,
        server: Server,
        load: Callable[[], Config],
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """load: loads the configuration; raises ConfigError. around: entered for each reload, whatever its outcome."""
        self._server = server
        self._load = load
        self._around = around
        self._clock = clock
        self._loaded = _loaded(server.config)

    async def reload(self) -> Sequence[str]:
        """Load the configuration and take it over. Returns its errors, if it has any: then nothing has changed.

        One reload runs at a time. Raises what should not fail, and does then, which also stops the server."""
        async with self._server.changing:
            with self._around():
                errors = await self._reload()
        self._server.metrics.count_reload(Reload(round(self._clock.time() * 1000), errors))
        return errors

    async def _reload(self) -> Sequence[str]:
        log.info("reloading the configuration")
        try:
            new = await self._read("the configuration", lambda: _loaded(self._load()))
            changes = self._loaded.changes(new)
            built = await self._build(new.config, changes)
            await self._reconfigure_journal(new.config)
        except ConfigError as error:
            log.error(NOT_RELOADED, errors=error.faults)
            return error.faults
        except Exception as error:
            log.exception(NOT_RELOADED)
            return [f"a bug in btfeed: {type(error).__name__}"]
        try:
            await self._switch(new.config, changes, built)
        except Exception as error:
            self._server.deliveries.fail(error)
            raise
        self._loaded = new
        log.info("configuration reloaded", **changes.named())
        for warning in new.config.warnings:
            log.warning("configuration warning", warning=warning)
        await log_advice(new.config, self._server.role)
        return []

    # What can fail

    async def _read(self, what: str, read: Callable[[], T]) -> T:
        """Raises ConfigError if it takes too long: a later reload shall not wait for this one for ever."""
        try:
            async with self._clock.timeout(READ_TIMEOUT):
                return await aside(read)
        except TimeoutError:
            hint = "is it on a drive that does not answer?"
            raise ConfigError([f"{what} could not be read within {READ_TIMEOUT:g} s: {hint}"]) from None

    async def _build(self, new: Config, changes: Changes) -> _Built:
        """Raises ConfigError with everything that is wrong."""
        faults, server = Faults(), self._server
        _check_fixed(self._loaded.config, new, faults)
        tls = mapper = None
        if server.receiver and new.receiver.tls:
            with _noted(faults, "receiver", "tls"):
                tls = await self._read("its files", new.receiver.tls.context)
        if changes.maps_anew and server.mapped_posts:
            with _noted(faults, "record"):
                mapper = create_mapper(new.record, new.validation)
        for name in changes.added | changes.changed:
            with _noted(faults, "sinks", name):
                await create_sink(name, new.sinks[name]).close()
        if faults:
            raise ConfigError(faults.lines())
        return _Built(tls, mapper)

    async def _reconfigure_journal(self, new: Config) -> None:
        """Raises ConfigError if the journal can't save the cursors of new sinks. It is as it was then."""
        try:
            await self._server.journal.reconfigure(new.journal, starts(new), new.receiver.max_occurrences)
        except JournalError as error:
            raise ConfigError([f"journal: {error}"]) from None

    # What can't

    async def _switch(self, new: Config, changes: Changes, built: _Built) -> None:
        server, deliveries = self._server, self._server.deliveries
        if server.receiver:
            server.receiver.reconfigure(new.receiver, built.tls)
        server.admin.reconfigure(new.admin)
        if "opentelemetry" in changes.tables:
            server.instruments.reconfigure(new.opentelemetry)
        concerned = changes.removed | changes.changed | (self._loaded.config.sinks.keys() if built.mapper else set())
        running = {name for name in concerned if deliveries.is_running(name)}
        await asyncio.gather(*map(deliveries.stop_sink, running))
        for name in changes.removed:
            deliveries.forget_sink(name)
        if built.mapper and server.mapped_posts:
            await server.mapped_posts.use(built.mapper)
        server.config = new
        for name in (running - changes.removed) | changes.added:
            deliveries.start_sink(name)
        show_validity(new, server.metrics)


@contextmanager
def _noted(faults: Faults, *path: str) -> Iterator[None]:
    """Whatever fails in the block is a fault at `path`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the configuration can't be taken
        faults.add(path, str(error) or repr(error))


def _check_fixed(old: Config, new: Config, faults: Faults) -> None:
    """Between HTTP and HTTPS there is no change without loss: AppMon's URL says which."""
    for table, keys in (FIXED | {"journal": _fixed_of_journal(old, new)}).items():
        for key in keys:
            if getattr(getattr(old, table), key) != getattr(getattr(new, table), key):
                faults.add((table, key), RESTART)
    if bool(old.receiver.tls) != bool(new.receiver.tls):
        faults.add(("receiver", "tls"), RESTART)


def _fixed_of_journal(old: Config, new: Config) -> Sequence[str]:
    return journals.fixed(old.journal) if old.journal.type == new.journal.type else ["type"]


def _loaded(config: Config) -> _Loaded:
    tables: dict[str, object] = {name: getattr(config, name) for name in TABLES}
    tables |= {f"sinks.{name}": sink.settings for name, sink in config.sinks.items()}
    return _Loaded(config, {name: dict(_files(table)) for name, table in tables.items()})


def _files(value: object) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The files that a table names."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _files(getattr(value, name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _files(item)
    elif isinstance(value, str):
        try:
            found = Path(value).stat()
        except (OSError, ValueError):  # not the name of a file, or of none that is there
            return
        if stat.S_ISREG(found.st_mode):
            yield value, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
