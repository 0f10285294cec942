"""Records as Avro: a schema from the table of record fields, and the conversion of JSON records to it."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from sinks.base import RecordField, SinkContext

_TYPES: dict[str, Any] = {
    "string": "string",
    "long": "long",
    "double": "double",
    "boolean": "boolean",
    "timestamp": {"type": "long", "logicalType": "timestamp-millis"},
    "strings": {"type": "array", "items": "string"},
}
_PYTHON: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "long": (int,),
    "double": (float,),
    "boolean": (bool,),
    "timestamp": (str,),
    "strings": (list,),
}
ATTRIBUTES = "attributes"


def avro_name(record_field: str) -> str:
    """The name of a record field in Avro, where names can't contain dots."""
    return record_field.strip(".").replace(".", "_")


def avro_schema(context: SinkContext) -> dict[str, Any]:
    """The schema of all records. Fields that a record may lack are optional, so that adding one is compatible."""
    fields: list[dict[str, Any]] = []
    for field in context.fields:
        avro = {"name": avro_name(field.name), "type": _TYPES[field.type], "doc": f"{field.name}: {field.doc}"}
        fields.append(avro if field.always else avro | {"type": ["null", avro["type"]], "default": None})
    for field in context.maps:
        values = {"type": "map", "values": _TYPES[field.type]}
        fields.append({"name": avro_name(field.name), "type": values, "default": {}, "doc": field.doc})
    anything = {"type": "map", "values": ["string", "long", "double", "boolean"]}
    fields.append({"name": ATTRIBUTES, "type": anything, "default": {}, "doc": "Constants that the user configured."})
    return {"type": "record", "name": "Occurrence", "namespace": "btfeed", "fields": fields}


def avro_converter(context: SinkContext) -> Callable[[bytes], dict[str, Any]]:
    """A function that converts a JSON record to what fastavro writes with `avro_schema(context)`.

    A field that the schema doesn't have, or whose value has another type, goes into `attributes`.
    """
    known = {field.name: (avro_name(field.name), field.type) for field in context.fields}
    maps = [(field.name, avro_name(field.name), field.type) for field in context.maps]
    map_names = [name for _, name, _ in maps] + [ATTRIBUTES]
    decode = msgspec.json.decode

    def convert(body: bytes) -> dict[str, Any]:
        record: dict[str, Any] = {name: {} for name in map_names}
        for name, value in decode(body).items():
            place, key, kind = record, *known.get(name, ("", ""))
            if not kind:
                for prefix, map_name, map_kind in maps:
                    if name.startswith(prefix):
                        place, key, kind = record[map_name], name[len(prefix) :], map_kind
            if not kind or type(value) not in _PYTHON[kind]:
                place, key = record[ATTRIBUTES], name
            place[key] = datetime.fromisoformat(value) if kind == "timestamp" and place is record else value
        return record

    return convert


def avro_restorer(fields: Sequence[RecordField], maps: Sequence[RecordField]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The way back: a function that gives the flat record of what fastavro reads of such a file."""
    flat = {avro_name(field.name): field.name for field in fields}
    prefixes = {avro_name(field.name): field.name for field in maps} | {ATTRIBUTES: ""}

    def restore(read: dict[str, Any]) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for name, value in read.items():
            if isinstance(value, dict):
                prefix = prefixes.get(name, f"{name}.")
                record |= {prefix + key: inner for key, inner in value.items()}
            elif isinstance(value, datetime):
                record[flat.get(name, name)] = value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            elif value is not None:
                record[flat.get(name, name)] = value
        return record

    return restore
