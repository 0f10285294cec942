"""The configuration file: TOML, assembled from the settings that each component declares.

All errors are reported at once, each with its path: sinks.settings.Settings rejects unknown keys, and btfeed/faults.py
words the errors. `${NAME}` in a string is replaced by the environment variable NAME.
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
    """The complete configuration. sinks: by name."""

    receiver: ReceiverSettings
    admin: AdminSettings
    journal: JournalSettings
    validation: ValidationSettings
    record: RecordSettings
    sinks: dict[str, SinkConfig]


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """Load the file `path`, or the default configuration. Raises ConfigError."""
    if path is None:
        return parse(DEFAULT, environment)
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8")), environment)
    except OSError as error:
        raise ConfigError([f"can't read {path}: {error.strerror}"]) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{path} is not valid TOML: {error}"]) from None


def parse(tables: Mapping[str, Any], environment: Mapping[str, str]) -> Config:
    """Build the configuration from parsed TOML. Raises ConfigError."""
    faults = Faults()
    tables = _substitute(tables, environment, (), faults)
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
    return Config(sections.receiver, sections.admin, sections.journal, sections.validation, sections.record, sinks)


def _substitute(value: Any, environment: Mapping[str, str], path: tuple[str, ...], faults: Faults) -> Any:
    """`value` with environment variables in place of every ${NAME}. Names that are not set are reported and left as is."""
    if isinstance(value, Mapping):
        return {key: _substitute(item, environment, (*path, key), faults) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, environment, (*path, str(index)), faults) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        if match[1] not in environment:
            faults.add(path, f"environment variable {match[1]} is not set")
        return environment.get(match[1], match[0])

    return re.sub(r"\$\{([^{}]*)\}", variable, value)
