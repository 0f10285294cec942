"""The table [sinks.NAME] of the configuration: what every sink can have, and the keys of its type."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sinks
from btfeed.delivery.settings import DeliverySettings, FilterSettings
from btfeed.faults import UNPRINTABLE, Faults, most_similar, validate
from btfeed.records.privacy import Privacy
from btfeed.records.schema import TRANSACTION_FIELDS
from sinks.base import SinkType
from sinks.settings import Settings


class CommonSettings(Settings):
    """Keys that every sink can have, whatever its type.

    type      type of the sink
    start     where a new sink begins: with the oldest post in the journal, or with the next one to arrive
    delivery  how records are batched and retried, see below
    filter    which records the sink gets, see below
    """

    type: str
    start: Literal["oldest", "latest"] = "oldest"
    delivery: DeliverySettings = DeliverySettings()
    filter: FilterSettings = FilterSettings()


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """One configured sink: what is common to all sinks, its type, and the settings of that type."""

    common: CommonSettings
    type: SinkType
    settings: Settings


def parse_sink(name: str, table: Any, faults: Faults, base: Path | None = None) -> SinkConfig | None:
    """The sink that [sinks.NAME] describes, or None if something is wrong with it, which is then in `faults`.

    base: where relative paths start; None for the current directory
    """
    path = ("sinks", name)
    if not name.strip():
        faults.add(path, "a sink needs a name: write [sinks.NAME]")
    if UNPRINTABLE.search(name):
        faults.add(path, "a sink's name is one line of visible characters and spaces: write [sinks.NAME]")
    if not isinstance(table, dict):
        faults.add(path, f'must be a table with a type: write [sinks.{name}] and below it, for example, type = "file"')
        return None
    sink_type = _sink_type(table, path, faults)
    if sink_type is None:
        _check_common(table, path, faults, base)
        return None
    common = {key: value for key, value in table.items() if key in CommonSettings.model_fields}
    limits = {key: value for key, value in table.items() if key in sink_type.delivery}
    own = {key: value for key, value in table.items() if key not in common and key not in limits}
    _merge_delivery(sink_type, common, limits, path, faults)
    common_settings = validate(CommonSettings, common, path, faults, base=base)
    own_settings = validate(sink_type.settings, own, path, faults, CommonSettings, base)
    return SinkConfig(common_settings, sink_type, own_settings) if common_settings and own_settings else None


def _check_common(table: dict[str, Any], path: tuple[str, ...], faults: Faults, base: Path | None) -> None:
    """Report what is wrong with a sink of whatever type."""
    tables: list[type[Settings]] = [CommonSettings, DeliverySettings, *_settings_of_all_types()]
    known = [key for each in tables for key in each.model_fields]
    for key in (key for key in table if key not in known):
        meant = most_similar(key, known)
        faults.add((*path, key), f"unknown key; did you mean {meant}?" if meant else "unknown key: no type of sink has it")
    common = {key: value for key, value in table.items() if key in CommonSettings.model_fields and key != "type"}
    validate(CommonSettings, {"type": "file"} | common, path, faults, base=base)


def _settings_of_all_types() -> Iterator[type[Settings]]:
    for name in sinks.types():
        with suppress(Exception):  # of a module that can't be imported
            yield sinks.load(name).settings


class UnknownType(Exception):
    """There is no such type of sink, or it can't be loaded. The message says which there are, or why."""


def find_type(name: str) -> SinkType:
    """The type of sink with this name. Raises UnknownType."""
    try:
        return sinks.load(name)
    except LookupError:
        known = sinks.types()
    except Exception as error:
        raise UnknownType(f'the type "{name}" can\'t be loaded: {type(error).__name__}: {error}') from error
    choice = f"known types: {', '.join(known)}"
    close = most_similar(name, known)  # what resembles no type is not shown: it may come from a secret's variable
    raise UnknownType(
        f'unknown sink type "{name}"; did you mean "{close}"? {choice.capitalize()}'
        if close
        else f"unknown sink type; {choice}"
    )


def _sink_type(table: dict[str, Any], path: tuple[str, ...], faults: Faults) -> SinkType | None:
    name = table.get("type")
    try:
        return find_type(name if isinstance(name, str) else "")
    except UnknownType as error:
        message = str(error)
    if "type" not in table:
        message = f"is required; known types: {', '.join(sinks.types())}"
    faults.add((*path, "type"), message)
    return None


def _merge_delivery(
    sink_type: SinkType, common: dict[str, Any], limits: dict[str, Any], path: tuple[str, ...], faults: Faults
) -> None:
    """Complete `common["delivery"]`: the defaults of the type, and `limits`, which are set in the sink's own table."""
    delivery = common.get("delivery", {})
    if not isinstance(delivery, dict):
        return  # for `validate` to report
    for key in limits.keys() & delivery.keys():
        faults.add((*path, key), f"is also set in [{'.'.join(path)}.delivery]: remove one of the two")
    delivery = common["delivery"] = {**sink_type.delivery, **limits, **delivery}
    in_flight = delivery.get("in_flight")
    if sink_type.serial and isinstance(in_flight, int) and in_flight > 1:
        faults.add((*path, "delivery", "in_flight"), f"must be 1: a {common['type']} sink writes one batch at a time")


def check_filters(filters: Mapping[str, FilterSettings], privacy: Privacy, faults: Faults) -> None:
    """Report filters by values that privacy leaves in no record: such a sink would get nothing."""
    for name, settings in filters.items():
        for key in FilterSettings.model_fields:
            wanted: list[str] = getattr(settings, key)
            fault = _unmatchable(TRANSACTION_FIELDS[key], wanted, privacy)
            if fault:
                faults.add(("sinks", name, "filter", key), fault)


def _unmatchable(field: str, wanted: list[str], privacy: Privacy) -> str:
    """What is wrong with filtering by these values, or an empty text. An absent field is an empty text in filters."""
    if field in privacy.dropped and any(wanted):
        return f"matches nothing, because record.privacy drops {field}: remove one of them"
    if field not in privacy.protected or all(not value or re.fullmatch("[0-9a-f]{32}", value) for value in wanted):
        return ""
    if field == TRANSACTION_FIELDS["category"]:
        return f"matches nothing, because record.privacy hashes {field}: remove one of them"
    hashes = ", ".join(f'"{privacy.protect(field, value)}"' for value in wanted)
    return f"matches nothing, because record.privacy hashes {field}: write the hashes, [{hashes}]"
