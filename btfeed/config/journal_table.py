"""The table [journal] of the configuration: its `type` says which keys it has."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from btfeed.delivery.sink_config import SinkConfig
from btfeed.faults import Faults, most_similar, validate
from btfeed.journal import create as journals
from btfeed.journal.create import JournalSettings
from sinks.base import JournalCluster

PATH = ("journal",)


def parse_journal(table: Any, faults: Faults, base: Path | None = None) -> JournalSettings | None:
    """The settings of the journal, or None if something is wrong with them, which is then in `faults`.

    base: where relative paths start; None for the current directory
    """
    named = table.get("type", journals.DEFAULT_TYPE) if isinstance(table, dict) else journals.DEFAULT_TYPE
    if named not in journals.TYPES:
        faults.add((*PATH, "type"), _unknown(named))
        return None
    model = journals.settings_of(named)
    if isinstance(table, dict):
        for key in table.keys() - model.model_fields.keys():
            _note_foreign(key, named, faults, "type" in table)
    return cast("JournalSettings | None", validate(model, table, PATH, faults, base=base))


def on_journal(sinks: Mapping[str, SinkConfig], journal: JournalSettings | None, faults: Faults) -> dict[str, SinkConfig]:
    """These sinks, of which those that write to the journal's cluster know the way there. journal: None if it was not read,
    or is wrong."""
    found = dict(sinks)
    for name, sink in sinks.items():
        if journal is None or getattr(sink.settings, "cluster", None) != "journal":
            continue
        if journal.type == "kafka":
            settings = cast("JournalCluster", sink.settings)
            found[name] = replace(sink, settings=settings.with_journal(journal.bootstrap_servers, journal.security))
        else:
            faults.add(("sinks", name, "cluster"), "the journal is not in Kafka: set bootstrap_servers instead")
    return found


def _unknown(named: object) -> str:
    known = ", ".join(f'"{name}"' for name in journals.TYPES)
    close = most_similar(named, journals.TYPES) if isinstance(named, str) else None
    return f'unknown type of journal; did you mean "{close}"? Known types: {known}' if close else f"must be one of {known}"


def _note_foreign(key: str, named: str, faults: Faults, is_set: bool) -> None:
    """Report a key that only journals of another type have. is_set: whether the type is, or is the default."""
    for other in journals.TYPES:
        if key in journals.settings_of(other).model_fields:
            text = f'unknown key of type = "{named}": only type = "{other}" has it'
            faults.add((*PATH, key), text if is_set else f'{text}. Set type = "{other}" in [journal]')
