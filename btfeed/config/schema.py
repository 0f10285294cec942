"""A JSON Schema of the configuration file, for editors that complete and check TOML.

It is looser than `parse`: it knows tables, keys, types, choices and limits of numbers, but not which keys go together. A
string with a reference such as `${NAME}` is valid in place of any text.
"""

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BeforeValidator, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import sinks
from btfeed.config.keys import Key, keys, plain, summary, table_in
from btfeed.config.loading import Sections
from btfeed.delivery.settings import DeliverySettings
from btfeed.delivery.sink_config import CommonSettings
from btfeed.journal import create as journals
from sinks.settings import Settings

DRAFT = "http://json-schema.org/draft-07/schema#"
REFERENCE = r"\$\{"
"""A pattern: text with a reference."""


def schema(types: Iterable[str] | None = None) -> dict[str, Any]:
    """The schema of the whole file. types: of sinks; by default, all that are installed. Raises NotDocumented."""
    made = _table(Sections)
    made["properties"]["journal"] = _journal(made["properties"]["journal"]["description"])
    definitions = {name: _sink(name) for name in (sinks.types() if types is None else types)}
    made["properties"]["sinks"] |= {
        "type": "object",
        "additionalProperties": {"oneOf": [{"$ref": f"#/definitions/{name}"} for name in definitions]},
    }
    return {"$schema": DRAFT, "title": "The configuration of btfeed", **made, "definitions": definitions}


def _journal(meaning: str) -> dict[str, Any]:
    """The table of a journal of any type. Without a type it is the default's."""
    return {"description": meaning, "oneOf": [_table(journals.settings_of(name)) for name in journals.TYPES]}


def _sink(name: str) -> dict[str, Any]:
    """The table of a sink of this type: what is common to all, its own keys, and limits of its deliveries."""
    sink_type = sinks.load(name)
    common, made = _table(CommonSettings), _table(sink_type.settings)
    deliveries = {key.name: key for key in keys(DeliverySettings)}
    limits = {key: _key(deliveries[key]) | {"default": value} for key, value in sink_type.delivery.items()}
    made["properties"] = common["properties"] | limits | made["properties"]
    made["properties"]["type"] |= {"const": name}
    made["required"] = ["type", *made.get("required", ())]
    inner = made["properties"]["delivery"]["properties"]
    for key, value in sink_type.delivery.items():
        inner[key] = inner[key] | {"default": value}
    return made


def _table(model: type[Settings]) -> dict[str, Any]:
    found = list(keys(model))
    made: dict[str, Any] = {
        "type": "object",
        "description": summary(model),
        "properties": {key.name: _key(key) for key in found},
        "additionalProperties": False,
    }
    required = [key.name for key in found if key.required]
    return made | ({"required": required} if required else {})


def _key(key: Key) -> dict[str, Any]:
    """With its meaning instead of what its table says of itself, and its default."""
    made = _value(key.hint) | {"description": key.meaning}
    if key.required or key.default is None or key.table:
        return made
    return made | {"default": plain(key.default, key.kind)}


def _value(hint: Any) -> dict[str, Any]:
    """The schema of a value of this type. There is no null in TOML."""
    if isinstance(hint, type) and issubclass(hint, Settings):
        return _table(hint)
    if get_origin(hint) in (Union, UnionType):
        options = [_value(part) for part in get_args(hint) if part is not NoneType]
        return options[0] if len(options) == 1 else {"anyOf": options}
    if get_origin(hint) is not Annotated:
        return _with_references(TypeAdapter(hint).json_schema())
    inner, *metadata = get_args(hint)
    written = [item.json_schema_input_type for item in metadata if isinstance(item, BeforeValidator)]
    if written and written[0] is not PydanticUndefined:
        return _value(written[0])  # what may be written, if it is not what it becomes
    if table_in(inner):
        return _value(inner)
    kept = [item for item in metadata if not isinstance(item, FieldInfo) or item.validate_default is None]
    return _with_references(TypeAdapter(Annotated[inner, *kept]).json_schema() if kept else _value(inner))


def _with_references(made: dict[str, Any]) -> dict[str, Any]:
    """A reference may stand for any text, whatever that must be."""
    if "items" in made:
        return made | {"items": _with_references(made["items"])}
    if "anyOf" in made:
        return made | {"anyOf": [_with_references(option) for option in made["anyOf"]]}
    if made.get("type") != "string":
        return made
    if "pattern" in made:
        return made | {"pattern": f"({made['pattern']})|{REFERENCE}"}
    if choices := made.get("enum", [made["const"]] if "const" in made else []):
        return {"anyOf": [{"type": "string", "enum": choices}, {"type": "string", "pattern": REFERENCE}]}
    return made
