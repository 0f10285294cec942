"""The configuration: TOML, assembled from what each component declares beside itself.

All faults are found at once, each with its path. `${NAME}` in a string is taken from the environment.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

import sinks
from btfeed.admin.server import AdminSettings
from btfeed.delivery.batching import DeliverySettings, FilterSettings
from btfeed.faults import ConfigError, Faults, validate
from btfeed.journal.create import JournalSettings
from btfeed.receiving.receiver import ReceiverSettings
from btfeed.records.plan import RecordSettings
from btfeed.records.validation import ValidationSettings
from sinks.base import SinkType
from sinks.settings import Settings

WITHOUT_A_FILE: Mapping[str, Any] = {"sinks": {"files": {"type": "file", "directory": "btfeed-data/files"}}}
"""What runs where no file is named; all else has its default."""


class Common(Settings):
    """What every sink's table may have beside the keys of its type.

    type      which sink
    start     where a new sink begins: with the oldest post in the journal, or with the next
    delivery  see below
    filter    see below
    """

    type: str
    start: Literal["oldest", "latest"] = "oldest"
    delivery: DeliverySettings = DeliverySettings()
    filter: FilterSettings = FilterSettings()


class Sections(Settings):
    """The tables of the file but the sinks'."""

    receiver: ReceiverSettings = ReceiverSettings()
    admin: AdminSettings = AdminSettings()
    journal: JournalSettings = JournalSettings()
    validation: ValidationSettings = ValidationSettings()
    record: RecordSettings = RecordSettings()
    sinks: Annotated[dict[str, Any], Field(default_factory=dict)]


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """One sink: what is common to all, and the settings of its own type."""

    common: Common
    type: SinkType
    settings: Settings


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that was configured."""

    receiver: ReceiverSettings
    admin: AdminSettings
    journal: JournalSettings
    validation: ValidationSettings
    record: RecordSettings
    sinks: dict[str, SinkConfig]


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration in the file `path`, or the default one. Raises ConfigError."""
    if path is None:
        return parse(WITHOUT_A_FILE, environment)
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8")), environment)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{path}: {error}"]) from None


def parse(tables: Mapping[str, Any], environment: Mapping[str, str]) -> Config:
    """The configuration in parsed TOML. Raises ConfigError."""
    faults = Faults()
    filled = _fill(tables, environment, (), faults)
    sections = validate(Sections, filled, (), faults)
    tables_of_sinks = filled.get("sinks", {})
    found = {}
    if isinstance(tables_of_sinks, dict):
        for name, table in tables_of_sinks.items():
            sink = _sink(name, table, faults)
            if sink:
                found[name] = sink
    if faults or sections is None:
        raise ConfigError([f"{path}: {message}" for path, message in faults.items()])
    return Config(sections.receiver, sections.admin, sections.journal, sections.validation, sections.record, found)


def _sink(name: str, table: Any, faults: Faults) -> SinkConfig | None:
    path = ("sinks", name)
    if not name:
        faults.add(path, "a sink needs a name")
    if not isinstance(table, dict):
        faults.add(path, "a sink is a table with a type")
        return None
    known = sinks.types()
    if table.get("type") not in known:
        wrong = "is no type of sink" if "type" in table else "is required"
        faults.add((*path, "type"), f"{wrong}; known are {', '.join(known)}")
        return None
    sink_type = sinks.load(table["type"])
    mine = {key: value for key, value in table.items() if key in Common.model_fields}
    own = {
        key: table[key] for key in sink_type.delivery if key in table
    }  # what a type has limits for may stand beside them
    if isinstance(mine.get("delivery", {}), dict):
        for key in own.keys() & mine.get("delivery", {}).keys():
            faults.add((*path, key), f"stands in {name}.delivery too")
        delivery = mine["delivery"] = {**sink_type.delivery, **own, **mine.get("delivery", {})}
        if sink_type.serial and isinstance(delivery.get("in_flight"), int) and delivery["in_flight"] > 1:
            faults.add((*path, "delivery", "in_flight"), f"a {table['type']} sink writes one batch at a time")
    its = {key: value for key, value in table.items() if key not in Common.model_fields and key not in own}
    common = validate(Common, mine, path, faults)
    settings = validate(sink_type.settings, its, path, faults, also=tuple(Common.model_fields))
    return SinkConfig(common, sink_type, settings) if common and settings else None


def _fill(value: Any, environment: Mapping[str, str], path: tuple[str, ...], faults: Faults) -> Any:
    """`value` with every ${NAME} taken from the environment; one that is not there is left as it is, and is a fault."""
    if isinstance(value, dict):
        return {key: _fill(item, environment, (*path, key), faults) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, environment, (*path, str(index)), faults) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        if match[1] not in environment:
            faults.add(path, f"the environment has no {match[1]}")
        return environment.get(match[1], match[0])

    return re.sub(r"\$\{([^{}]*)\}", variable, value)
