"""The configuration as it takes effect: with all defaults, and without secrets."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from btfeed.config.keys import Key, in_toml, in_toml_key, is_secret, keys, plain
from btfeed.config.loading import Config, NotRead, Sections
from sinks.settings import Settings

HIDDEN = "***"
_REFERENCE = re.compile(r"\$\{(file:|credential:)?[^{}:]+\}")


def effective(config: Config, written: Mapping[str, Any]) -> dict[str, Any]:
    """Every key that has a value, by table, as it could be written in the file.

    A secret is shown as the reference that stands for it, or else as HIDDEN. Raises NotRead if a table can't be valid
    without what a reference stands for.

    written: the tables of the file as they are, see `read_toml`
    """
    found: dict[str, Any] = {
        name: _table(getattr(config, name), written.get(name, {})) for name in Sections.model_fields if name != "sinks"
    }
    found["sinks"] = {}
    for name, table in written.get("sinks", {}).items():
        if name not in config.sinks:
            raise NotRead(f"[sinks.{name}] was not read")
        sink = config.sinks[name]
        common, own = _table(sink.common, table), _table(sink.settings, table)
        inner = {key: common.pop(key) for key in ("delivery", "filter")}
        found["sinks"][name] = common | own | inner
    return found


def redacted(config: Config) -> dict[str, Any]:
    """The same without the file: each secret is HIDDEN. config: a complete one."""
    return effective(config, {"sinks": {name: {} for name in config.sinks}})


def _table(settings: Settings, written: Any) -> dict[str, Any]:
    """written: the same table in the file. It may be something else there, such as a URL in place of a table."""
    tables = written if isinstance(written, dict) else {}
    values = dict(settings)
    found = keys(type(settings), documented=False)
    shown = {key.name: _value(key, values[key.name], tables.get(key.name)) for key in found}
    return {name: value for name, value in shown.items() if value is not None}


def _value(key: Key, value: Any, written: Any) -> Any:
    if isinstance(value, Settings):
        return _table(value, written)
    if key.kind == "path" and ".." in Path(value or "").parts:
        return os.path.realpath(value)
    if not is_secret(key.hint) or not value:
        return plain(value, key.kind)
    if isinstance(value, list):
        return [_hidden(text) for text in written or [None] * len(value)]
    if isinstance(value, dict):
        return {name: _hidden((written or {}).get(name)) for name in value}
    return _hidden(written)


def _hidden(written: Any) -> str:
    """A reference to a secret. With a default, or beside other text, it would show part of it."""
    return written if isinstance(written, str) and _REFERENCE.fullmatch(written) else HIDDEN


def toml_lines(tables: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    """The tables as TOML: in each, first what is no table."""
    inner = {key: value for key, value in tables.items() if isinstance(value, dict)}
    has_head = bool(path) and (len(inner) < len(tables) or not tables)
    if has_head:
        yield f"[{'.'.join(map(in_toml_key, path))}]"
    for key, value in tables.items():
        if key not in inner:
            yield f"{in_toml_key(key)} = {in_toml(value)}"
    if has_head:
        yield ""
    for key, value in inner.items():
        yield from toml_lines(value, (*path, key))
