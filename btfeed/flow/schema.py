"""The JSON Schema of a report, made of its dataclasses: docs/flow-report.schema.json, which `make docs` writes.

Further members are allowed everywhere: later versions may add some without another version number.
"""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from btfeed.flow.as_json import MOMENTS, SPANS
from btfeed.flow.report import VERSION, Figures, Report

_SIMPLE: dict[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_MOMENT = {"type": "string", "format": "date-time"}


def schema() -> dict[str, Any]:
    """The schema."""
    made: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    made |= {"title": "A report of btfeed flow, version 1", **_of(Report)}
    made["properties"]["version"] = {"const": VERSION}
    return made


def _of(kind: Any, name: str = "") -> dict[str, Any]:
    """Of a type. name: of the field that has it."""
    if is_dataclass(kind) and isinstance(kind, type):
        return _object(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, Union):  # a Literal or None is the latter
        return {"anyOf": [_of(each, name) for each in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0])}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _of(arguments[1])}
    if name in MOMENTS and kind in (int, float):
        return dict(_MOMENT)
    return {"type": _SIMPLE[kind]}


def _object(kind: type) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        name = "from" if field.name == "begin" else field.name
        if hint is Figures:
            properties |= _object(Figures)["properties"]
        elif kind.__name__ in SPANS and field.name in ("begin", "end"):
            nullable = type(None) in get_args(hint)
            found = {"anyOf": [dict(_MOMENT), {"type": "null"}]} if nullable else dict(_MOMENT)
            properties["from" if field.name == "begin" else "to"] = found
        else:
            properties[name] = _of(hint, field.name) | dict(field.metadata)
    return {"type": "object", "required": sorted(properties), "properties": properties}
