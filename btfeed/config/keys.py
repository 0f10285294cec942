"""What each key of the configuration is, in words: its meaning, its type, and its default in TOML.

All of it comes from the settings that the components declare. The tables of the documentation, the JSON Schema and the
configuration that `btfeed init` writes are made from it.
"""

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from btfeed.address import Address
from sinks.settings import Place, Seconds, Secret, Settings, Size, size_text, time_text


class NotDocumented(Exception):
    """The settings do not say enough. The message says what is missing, and where."""


def names(model: type[Settings]) -> dict[str, str]:
    """Key in the file -> name of the field: Python has no name like `from`."""
    return {field.alias or name: name for name, field in model.model_fields.items()}


def meanings(model: type[Settings]) -> dict[str, str]:
    """The meaning of each key, from the docstring of `model`: names, two or more spaces, text. Raises NotDocumented."""
    found: dict[str, str] = {}
    known = names(model)
    keys: list[str] = []
    for line in (inspect.getdoc(model) or "").splitlines():
        entry = re.match(r"(\w+(?:, \w+)*) {2,}(\S.*)", line)
        if entry and set(entry[1].split(", ")) <= set(known):
            keys = entry[1].split(", ")
            found.update(dict.fromkeys(keys, entry[2]))
        elif line.startswith("  ") and keys:
            found.update({key: f"{found[key]} {line.strip()}" for key in keys})
        else:
            keys = []
    for key in known.keys() - found.keys():
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


def summary(model: type[Settings]) -> str:
    """What the table is for: the first paragraph of its docstring."""
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def is_secret(hint: Any) -> bool:
    """Whether the key, or an item of its list, is a secret."""
    return hint is Secret or any(map(is_secret, get_args(hint)))


def table_in(hint: Any) -> type[Settings] | None:
    """The table that a key is, if it is one."""
    if isinstance(hint, type) and issubclass(hint, Settings):
        return hint
    return None if get_origin(hint) in (list, dict) else next(filter(None, map(table_in, get_args(hint))), None)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table.

    hint     its type with the metadata
    meaning  from the docstring of the table
    kind     its type in words
    table    its settings if it is a table
    default  in Python; REQUIRED if it has none
    """

    name: str
    hint: Any
    meaning: str
    kind: str
    table: type[Settings] | None
    default: Any

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


REQUIRED = object()


def keys(model: type[Settings], documented: bool = True) -> Iterator[Key]:
    """The keys of a table. Raises NotDocumented, unless their meanings are not needed."""
    hints = get_type_hints(model, include_extras=True)
    said = meanings(model) if documented else dict.fromkeys(names(model), "")
    for key, name in names(model).items():
        field = model.model_fields[name]
        default = REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
        hint = hints[name]
        yield Key(key, hint, said[key], kind(hint), table_in(hint), default)


def plain(value: Any, what: str) -> Any:
    """A value of a key as it stands in the parsed file: a size and a time are texts again. what: the kind of the key.

    A secret is shown.
    """
    if isinstance(value, Secret):
        return value.get_secret_value()
    if isinstance(value, list):
        return [plain(item, what.removeprefix("list of ")) for item in value]
    if what == "size" and isinstance(value, int):
        return size_text(value)
    if what == "time" and isinstance(value, float):
        return time_text(value)
    return value


def in_toml(value: Any, what: str = "") -> str:
    """A value as TOML writes it. what: the kind of the key. A secret is shown."""
    value = plain(value, what)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(in_toml(item) for item in value)}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{in_toml_key(key)} = {in_toml(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if value else "{}"
    if isinstance(value, float):
        return f"{value:g}" if what.endswith("number") else repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else str(value)


def in_toml_key(name: str) -> str:
    """A bare key if it can be one, else a quoted one."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else in_toml(name)
