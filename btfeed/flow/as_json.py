"""A report as JSON: version 1, whose schema is report.schema.json beside this module, and docs/flow.md explains.

What `btfeed/flow/report.py` calls a field, JSON calls it too. The numbers of all flows stand at the top level, moments are
RFC 3339 texts in UTC, what can't be told is null.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from btfeed.flow.report import Figures, Report, Trace
from btfeed.flow.words import exact

MOMENTS = {"as_of", "first", "last", "mature_before", "start", "decided", "time"}
"""Fields that are milliseconds since the epoch."""
SPANS = {"Period", "Bucket"}
"""Classes whose begin and end are moments, and are called from and to."""


def as_json(report: Report) -> dict[str, Any]:
    """The report as what JSON can hold."""
    found: dict[str, Any] = {"version": report.version}
    return found | {key: value for key, value in plain(report).items() if key != "version"}


def encode(value: Any) -> bytes:
    """Indented JSON with a newline at its end. Equal values give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def plain(value: Any, key: str = "") -> Any:
    """What JSON can hold of it. key: the field that it is the value of."""
    if is_dataclass(value) and not isinstance(value, type):
        return _object(value)
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if key in MOMENTS and isinstance(value, int | float):
        return exact(value)
    return value


def _object(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    spans = type(value).__name__ in SPANS
    for field in fields(value):
        inner = getattr(value, field.name)
        if isinstance(inner, Figures):
            found |= _object(inner)
        elif spans and field.name in ("begin", "end"):
            found["from" if field.name == "begin" else "to"] = None if inner is None else exact(inner)
        else:
            found["from" if field.name == "begin" else field.name] = plain(inner, field.name)
    return found


def line(value: Any) -> bytes:
    """JSON in one line."""
    return msgspec.json.encode(value)


def traced(trace: Trace) -> dict[str, Any]:
    """One flow as what JSON can hold. Its records stay JSON texts, as they are in the source."""
    found = _object(trace)
    return found | {"steps": {name: None if at is None else exact(at) for name, at in trace.steps.items()}}
