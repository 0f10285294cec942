"""What each key of the configuration is, in words: its meaning, its type, and its default in TOML.

All of it comes from the settings that the components declare. The tables of the documentation, the JSON Schema and the
configuration that `btfeed init` writes are made from it.
"""

import inspect
import re
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from btfeed.address import Address
from sinks.settings import Place, Seconds, Secret, Settings, Size


class NotDocumented(Exception):
    """The settings do not say enough. The message says what is missing, and where."""


def meanings(model: type[Settings]) -> dict[str, str]:
    """The meaning of each key, from the docstring of `model`: names, two or more spaces, text. Raises NotDocumented."""
    found: dict[str, str] = {}
    keys: list[str] = []
    for line in (inspect.getdoc(model) or "").splitlines():
        entry = re.match(r"(\w+(?:, \w+)*) {2,}(\S.*)", line)
        if entry and set(entry[1].split(", ")) <= set(model.model_fields):
            keys = entry[1].split(", ")
            found.update(dict.fromkeys(keys, entry[2]))
        elif line.startswith("  ") and keys:
            found.update({key: f"{found[key]} {line.strip()}" for key in keys})
        else:
            keys = []
    for key in model.model_fields.keys() - found.keys():
        place = f"{model.__module__}.{model.__qualname__}"
        raise NotDocumented(f"{place}: its docstring does not explain the key {key}; add the line `{key}  MEANING`")
    return found


def kind(hint: Any) -> str:
    """The type of a key, in the words of the documentation."""
    for known, name in ((Size, "size"), (Seconds, "time"), (Address, "address"), (Place, "path")):
        if set(get_args(known)[1:]) <= set(getattr(hint, "__metadata__", ())):  # with bounds or without
            return name
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        return f"list of {kind(item)}"
    parts = [part for part in get_args(hint) if part is not NoneType]
    if parts and get_origin(hint) is not dict:
        return kind(parts[0])
    if isinstance(hint, type) and issubclass(hint, Settings):
        return "table"
    return {int: "integer", float: "number", bool: "boolean", str: "text", Secret: "text"}.get(hint, "table")


def written(value: Any, what: str) -> str:
    """A default value in TOML."""
    if value is None:
        return "none"
    if isinstance(value, Settings):
        return "see below"
    if isinstance(value, Secret):
        return written(value.get_secret_value(), what)
    if isinstance(value, float) and what == "number":
        return f"`{value:g}`"
    if what == "size":
        unit, name = next((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB"), (1, "B")) if value % u == 0)
        return f'`"{value // unit}{name}"`'
    if what == "time":
        milliseconds = round(value * 1000)
        units = ((3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms"))
        unit, name = next((u, n) for u, n in units if milliseconds % u == 0)
        return f'`"{milliseconds // unit}{name}"`'
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"
