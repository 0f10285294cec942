"""Loads the configuration file.

All errors are reported at once, each with its path: sinks.settings.Settings rejects unknown keys, and btfeed/faults.py
words the errors. A command that needs only some tables names them, and nothing that is wrong in others concerns it.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast, get_type_hints

from pydantic import Field

from btfeed.admin.settings import AdminSettings
from btfeed.config.journal_table import on_journal, parse_journal
from btfeed.config.substitution import Found, References, substitute
from btfeed.delivery.settings import FilterSettings
from btfeed.delivery.sink_config import SinkConfig, check_filters, parse_sink
from btfeed.faults import ConfigError, Faults, unknown_key, validate
from btfeed.journal import create as journals
from btfeed.journal.create import EmbeddedSettings, JournalSettings
from btfeed.receiving.settings import ReceiverSettings
from btfeed.records.privacy import Privacy
from btfeed.records.settings import PrivacySettings, RecordSettings
from btfeed.records.validation import ValidationSettings
from btfeed.telemetry.opentelemetry.settings import OpenTelemetrySettings
from btfeed.toml_file import read_toml
from sinks.settings import Settings

ONE_WRITER = (
    'must be 1, since one process writes the journal\'s file, receives and delivers; set journal.type = "kafka" for more,'
    " and for `btfeed receive` and `btfeed deliver`"
)
"""Why SQLite's journal has no workers."""
DEFAULT: Mapping[str, Any] = {"sinks": {"files": {"type": "file", "directory": "btfeed-data/files"}}}
"""The configuration without a file. Everything else has its own default."""


class Sections(Settings):
    """The tables of the file. Those of the sinks are validated one by one, see parse_sink; that of the journal by its
    type, see parse_journal.

    receiver       where and how AppMon posts
    admin          where health, metrics and status are served
    journal        where received posts are kept until they are delivered
    validation     what to do with an occurrence that breaks a rule
    record         what records contain
    opentelemetry  whether traces and metrics are sent, and to what collector
    sinks          where records are delivered to: a table for each sink, with a name of your choice
    """

    receiver: ReceiverSettings = ReceiverSettings()
    admin: AdminSettings = AdminSettings()
    journal: EmbeddedSettings = EmbeddedSettings()
    validation: ValidationSettings = ValidationSettings()
    record: RecordSettings = RecordSettings()
    opentelemetry: OpenTelemetrySettings = OpenTelemetrySettings()
    sinks: Annotated[dict[str, Any], Field(default_factory=dict)]


TABLES = frozenset({*Sections.model_fields, "filters"})
"""What a command can need: the tables of the file, and `filters`, which are [sinks.NAME.filter] alone."""


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration, or those tables of it that were asked for. To read another one is a bug, and raises NotRead.

    sinks       by name
    filters     the filter of each sink, by its name
    unresolved  path -> why a reference there stands for nothing. Only if `load` is to be tolerant: the text still has the
                reference, or if it can't be valid with it, the table is not read
    warnings    what is probably not as the user meant it
    """

    receiver: ReceiverSettings
    admin: AdminSettings
    journal: JournalSettings
    validation: ValidationSettings
    record: RecordSettings
    sinks: dict[str, SinkConfig]
    filters: dict[str, FilterSettings] = field(default_factory=dict)
    unresolved: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    opentelemetry: OpenTelemetrySettings = field(default_factory=OpenTelemetrySettings)

    def is_complete(self, path: str) -> bool:
        """Whether it was read, and all references in it could be resolved. path: of a table or a key."""
        if any(f"{each}.".startswith(f"{path}.") for each in self.unresolved):
            return False
        return self.was_read(path)

    def was_read(self, path: str) -> bool:
        """Whether the table of the file that this path is in, or its own, could be valid."""
        table, _, inner = path.partition(".")
        if isinstance(getattr(self, table), _NotRead):
            return False
        return table != "sinks" or any(f"{inner}.".startswith(f"{name}.") for name in self.sinks)


class NotRead(Exception):
    """The program uses a table of the configuration that it did not ask `load` for."""


class _NotRead:
    """In place of a table that was not asked for."""

    def __init__(self, table: str) -> None:
        self._table = table

    def __getattr__(self, name: str) -> NoReturn:
        raise NotRead(f"[{self._table}] was not read: name it in `needs`")


def load(
    path: Path | None, environment: Mapping[str, str] = os.environ, needs: Collection[str] = TABLES, tolerant: bool = False
) -> Config:
    """Load the file `path`, or the default configuration. Raises ConfigError.

    Relative paths in the file start at its directory. References such as `${NAME}` are looked up anew by each call.

    needs     the tables that are read, of TABLES. Whatever is wrong in others does not matter
    tolerant  a reference that stands for nothing is not an error: the result names it
    """
    if path is None:
        return parse(DEFAULT, environment, needs=needs, tolerant=tolerant)
    return parse(read_toml(path), environment, path.absolute().parent, needs, tolerant)


def parse(
    tables: Mapping[str, Any],
    environment: Mapping[str, str],
    base: Path | None = None,
    needs: Collection[str] = TABLES,
    tolerant: bool = False,
) -> Config:
    """Build the configuration from parsed TOML. Raises ConfigError.

    base             where relative paths start; None for the current directory
    needs, tolerant  see `load`
    """
    references = References(environment, base)
    values = Found()
    needed: dict[str, Any] = substitute(_needed(tables, needs), references, (), values)
    unresolved = values.unresolved
    without = Faults(values.malformed | unresolved)
    faults = Faults(without)
    if set(needs) >= TABLES - {"sinks"}:
        for name in tables.keys() - Sections.model_fields.keys():
            faults.add((name,), unknown_key(Sections, (name,)))
    found = _validated(needed, needs, base, faults)
    faults = faults.without_consequences(without)
    if faults.keys() - unresolved.keys() or (unresolved and not tolerant):
        for path in values.origins.keys() & faults.keys() - without.keys():
            faults[path] += f" (the value is that of {values.origins[path]})"
        raise ConfigError(faults.lines(), unresolved.lines())
    return Config(
        **{name: cast("Any", _NotRead(name)) if found.get(name) is None else found[name] for name in sorted(TABLES)},
        unresolved=dict(unresolved),
        warnings=tuple(
            f"environment variable {name} has whitespace at its ends, which is ignored"
            for name in sorted(references.padded)
        ),
    )


def _needed(tables: Mapping[str, Any], needs: Collection[str]) -> dict[str, Any]:
    """What is needed of the file's tables. Keys that are unknown are needed if everything is."""
    if set(needs) >= TABLES:
        return dict(tables)
    needed = {name: table for name, table in tables.items() if name in needs}
    listed = tables.get("sinks")
    if "filters" in needs and "sinks" not in needs and isinstance(listed, dict):
        needed["sinks"] = {
            name: {"filter": table["filter"]} if isinstance(table, dict) and "filter" in table else {}
            for name, table in listed.items()
        }
    return needed


def _validated(tables: dict[str, Any], needs: Collection[str], base: Path | None, faults: Faults) -> dict[str, Any]:
    """What is needed, as settings. What has faults is missing."""
    found: dict[str, Any] = {}
    for name, model in get_type_hints(Sections).items():
        if name in needs and name != "sinks":
            table = tables.get(name, {})
            if name == "journal":
                found[name] = parse_journal(table, faults, base)
            else:
                found[name] = validate(model, table, (name,), faults, base=base)
    _check_workers(found.get("receiver"), found.get("journal"), faults)
    listed = tables.get("sinks", {})
    if not isinstance(listed, dict):
        faults.add(("sinks",), "must be a table: write [sinks.NAME] for each sink")
    elif "sinks" in needs:
        parsed = {name: parse_sink(name, table, faults, base) for name, table in listed.items()}
        found["sinks"] = on_journal({name: sink for name, sink in parsed.items() if sink}, found.get("journal"), faults)
        found["filters"] = _filters(listed, faults)
        if privacy := _privacy(tables, found.get("record")):
            check_filters(found["filters"], Privacy(privacy), faults)
    elif "filters" in needs:
        found["filters"] = _filters(listed, faults)
    return found


def _check_workers(receiver: ReceiverSettings | None, journal: JournalSettings | None, faults: Faults) -> None:
    if receiver and journal and receiver.workers > 1 and not journals.halves(journal):
        faults.add(("receiver", "workers"), ONE_WRITER)


def _filters(listed: Mapping[str, Any], faults: Faults) -> dict[str, FilterSettings]:
    """Also those of sinks that are wrong in something else."""
    found = {
        name: validate(FilterSettings, table.get("filter", {}), ("sinks", name, "filter"), faults)
        for name, table in listed.items()
        if isinstance(table, dict)
    }
    return {name: each for name, each in found.items() if each}


def _privacy(tables: Mapping[str, Any], record: RecordSettings | None) -> PrivacySettings | None:
    """Also if something else is wrong with [record]. None if it is wrong itself."""
    if record:
        return record.privacy
    table = tables.get("record", {})
    wrong = Faults()  # which are reported already
    return validate(PrivacySettings, table.get("privacy", {}), (), wrong) if isinstance(table, dict) else None
