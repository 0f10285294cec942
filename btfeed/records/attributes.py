"""The constants in [record.attributes]: names and values that every sink takes.

What one of the sinks would reject is refused with the configuration, whichever sinks are configured: otherwise each record
would become a dead letter, and a sink that is added later could not get the records of before.
"""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from btfeed.records.schema import MAPS, RECORD_FIELDS

MAX_SIZE = 100
"""Bytes of a name. Dynatrace documents this limit for the keys of log attributes, and none for those of business events."""
MAX_DEPTH = 20
"""Parts of a name. Elasticsearch's default, `index.mapping.depth.limit`."""
MAX_FLOAT = (2 - 2**-23) * 2.0**127
"""Elasticsearch indexes the numbers of a field that it doesn't know with 32 bits, and rejects larger ones."""
_FIELDS = {field.name for field in RECORD_FIELDS}
_PREFIXES = tuple(prefix.name for prefix in MAPS)


def flat_attributes(table: object) -> dict[str, Any]:
    """Validates the table. Joins nested ones to dotted names: TOML reads `dt.entity.host = "x"` as three tables.

    Raises ValueError, or a ValidationError with every fault at the name of its attribute.
    """
    if not isinstance(table, dict):
        raise ValueError("must be a table: write names and constants under [record.attributes]")
    flat: dict[str, Any] = {}
    faults: list[InitErrorDetails] = []
    for name, value in _leaves(table, ""):
        twice = "is set twice, as a quoted key with dots and as nested tables: remove one" if name in flat else ""
        flat[name] = value
        if fault := twice or _fault_of_name(name) or _fault_of_value(value):
            faults.append(_at(name, fault))
    faults += [_at(name, fault) for name in flat if (fault := _fault_among(name, flat))]
    if faults:
        raise ValidationError.from_exception_data("attributes", faults, hide_input=True)
    return flat


def _leaves(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _at(name: str, fault: str) -> InitErrorDetails:
    shown = name if name.isprintable() else ascii(name)
    return InitErrorDetails(type=PydanticCustomError("attribute", "{fault}", {"fault": fault}), loc=(shown,), input=None)


def _fault_of_name(name: str) -> str:
    """What is wrong with the name of an attribute, or an empty text."""
    parts = name.split(".")
    if not name:
        return "an attribute needs a name: write for example environment"
    if not all(part.strip() for part in parts):
        return "invalid name: between, before and after dots there must be other characters than spaces"
    if any(char < " " or "\x7f" <= char < "\xa0" for char in name):
        return "invalid name: remove its control characters"
    if name[0] in "_@":
        return "invalid name: Elasticsearch keeps names that begin with _ or @ for itself; begin with another character"
    if len(name.encode()) > MAX_SIZE:
        return f"the name is too long: shorten it to at most {MAX_SIZE} bytes"
    if len(parts) > MAX_DEPTH:
        return f"the name has too many dots: use at most {MAX_DEPTH - 1}"
    return _clash_with_field(name)


def _clash_with_field(name: str) -> str:
    """What is wrong if a record had this attribute besides its own fields, or an empty text."""
    if name in _FIELDS:
        return "is a field of records, which an attribute can't override: choose another name"
    if name.startswith(_PREFIXES):
        return "is a name that users of AppMon may choose: choose another one"
    below = min((field for field in (*_FIELDS, *_PREFIXES) if field.startswith(f"{name}.")), default="")
    if below:
        example = f"{below}NAME" if below in _PREFIXES else below
        return f"can't have a value, because records have fields below it, such as {example}: choose another name"
    above = next((field for field in _FIELDS if name.startswith(f"{field}.")), "")
    return f"lies below {above}, a field of records that has a value: choose another name" if above else ""


def _fault_among(name: str, attributes: Mapping[str, Any]) -> str:
    """What is wrong with an attribute because of the others, or an empty text."""
    above = next((other for other in attributes if other and name.startswith(f"{other}.")), None)
    return f"lies below the attribute {above}, which has a value: rename one of the two" if above else ""


def _fault_of_value(value: object) -> str:
    """What is wrong with the value of an attribute, or an empty text."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "the integer does not fit in 64 bits: write it as text"
    if isinstance(value, float) and not (isfinite(value) and abs(value) <= MAX_FLOAT):
        return "the number must be finite and at most 3.4e38, in either direction: write it as text"
    return "" if isinstance(value, (str, int, float)) else "must be text, a boolean or a number"
