"""The configuration file: TOML, assembled from the settings that each component declares.

All errors are reported at once, each with its path: sinks.settings.Settings rejects unknown keys, and btfeed/faults.py
words the errors. `${NAME}` in a string is replaced by the environment variable NAME, without whitespace at its ends.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from btfeed.admin.settings import AdminSettings
from btfeed.delivery.sink_config import SinkConfig, check_filters, parse_sink
from btfeed.faults import ConfigError, Faults, validate
from btfeed.journal.create import JournalSettings
from btfeed.receiving.settings import ReceiverSettings
from btfeed.records.privacy import Privacy
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from sinks.settings import Settings

DEFAULT: Mapping[str, Any] = {"sinks": {"files": {"type": "file", "directory": "btfeed-data/files"}}}
"""The configuration without a file. Everything else has its own default."""


class Sections(Settings):
    """The tables of the file. Those of the sinks are validated one by one, see parse_sink."""

    receiver: ReceiverSettings = ReceiverSettings()
    admin: AdminSettings = AdminSettings()
    journal: JournalSettings = JournalSettings()
    validation: ValidationSettings = ValidationSettings()
    record: RecordSettings = RecordSettings()
    sinks: Annotated[dict[str, Any], Field(default_factory=dict)]


@dataclass(frozen=True, slots=True)
class Config:
    """The complete configuration. sinks: by name. warnings: what is probably not as the user meant it."""

    receiver: ReceiverSettings
    admin: AdminSettings
    journal: JournalSettings
    validation: ValidationSettings
    record: RecordSettings
    sinks: dict[str, SinkConfig]
    warnings: tuple[str, ...] = ()


class _Variables:
    """The environment variables that the configuration refers to. padded: those that had whitespace at their ends."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.padded: set[str] = set()

    def get(self, name: str) -> str | None:
        """The value without whitespace at its ends: a secret often gets a newline from the file that it was read from."""
        value = self._environment.get(name)
        if value is not None and value != value.strip():
            self.padded.add(name)
        return value and value.strip()


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """Load the file `path`, or the default configuration. Raises ConfigError."""
    if path is None:
        return parse(DEFAULT, environment)
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8-sig")), environment)
    except OSError as error:
        raise ConfigError([f"can't read {path}: {error.strerror}"]) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{path} is not valid TOML: {error}"]) from None


def parse(tables: Mapping[str, Any], environment: Mapping[str, str]) -> Config:
    """Build the configuration from parsed TOML. Raises ConfigError."""
    faults = Faults()
    variables = _Variables(environment)
    tables = _substitute(tables, variables, (), faults)
    sink_tables = tables.get("sinks", {})
    if not isinstance(sink_tables, dict):
        faults.add(("sinks",), "must be a table: write [sinks.NAME] for each sink")
        sink_tables = {}
    sections = validate(Sections, tables, (), faults)
    found = {name: parse_sink(name, table, faults) for name, table in sink_tables.items()}
    sinks = {name: sink for name, sink in found.items() if sink}
    if sections:
        check_filters(sinks, Privacy(sections.record.privacy), faults)
    if faults or sections is None:
        raise ConfigError([f"{path}: {message}" for path, message in faults.items()])
    warnings = tuple(
        f"environment variable {name} has whitespace at its ends, which is ignored" for name in sorted(variables.padded)
    )
    receiver, admin, journal = sections.receiver, sections.admin, sections.journal
    return Config(receiver, admin, journal, sections.validation, sections.record, sinks, warnings)


def _substitute(value: Any, variables: _Variables, path: tuple[str, ...], faults: Faults) -> Any:
    """`value` with environment variables in place of every ${NAME}. Names that are not set are reported and left as is."""
    if isinstance(value, Mapping):
        return {key: _substitute(item, variables, (*path, key), faults) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, variables, (*path, str(index)), faults) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        value = variables.get(match[1])
        if value is None:
            faults.add(path, f"environment variable {match[1]} is not set")
            return match[0]
        return value

    return re.sub(r"\$\{([^{}]*)\}", variable, value)
