"""Conditions on records, as a definition writes them: `"event.type" = "Cart viewed"`, `amount = { min = 100 }`.

A match is a table of them: all have to fit. A value is compared as the text that the record has, numbers as numbers. A
record without a field fits no condition on it, except `exists = false` and `not`.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Scalar = str | int | float | bool
Match = tuple["Condition", ...]

KEYS = ("not", "prefix", "min", "max", "exists", "regex")
"""What a condition that is a table may have. All of it has to fit."""
PYTHON_ONLY = re.compile(r"\(\?(?:[=!>]|<[=!]|P=|\()|\\[1-9]")
"""What regular expressions have in Python and not in the engine: looking around, and references to groups."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What one field has to be. None: no such condition.

    any_of  one of these values
    no      none of these values
    """

    field: str
    any_of: tuple[Scalar, ...] | None = None
    no: tuple[Scalar, ...] | None = None
    prefix: str | None = None
    min: float | None = None
    max: float | None = None
    exists: bool | None = None
    regex: str | None = None


def conditions(table: Mapping[str, Any]) -> Match:
    """The conditions of a match that `faults` finds nothing wrong with."""
    return tuple(_condition(field, value) for field, value in table.items())


def _condition(field: str, value: Any) -> Condition:
    if not isinstance(value, dict):
        return Condition(field, any_of=_values(value))
    rest = {key: wanted for key, wanted in value.items() if key != "not"}
    return Condition(field, no=_values(value["not"]) if "not" in value else None, **rest)


def _values(value: Any) -> tuple[Scalar, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def faults(table: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with a match: the path below it, and the message."""
    if not isinstance(table, dict):
        yield (), 'must be a table, for example { "event.outcome" = "failure" }'
        return
    for field, value in table.items():
        if not field:
            yield (field,), "must be the name of a field"
        elif isinstance(value, dict):
            for key, message in _faults_of_table(value):
                yield (field, *key), message
        elif message := _fault_of_values(value):
            yield (field,), message


def _faults_of_table(value: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    if not value:
        yield (), f"is empty; it may have {', '.join(KEYS)}"
    for key, wanted in value.items():
        if key not in KEYS:
            yield (key,), f"unknown key; known keys: {', '.join(KEYS)}. A field whose name has dots needs quotes"
        elif message := _fault_of_key(key, wanted):
            yield (key,), message
    low, high = value.get("min"), value.get("max")
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        yield ("min",), "must not be more than max"


def _fault_of_key(key: str, wanted: Any) -> str:
    if key == "not":
        return _fault_of_values(wanted)
    if key in ("min", "max"):
        return "" if _is_number(wanted) else "must be a number"
    if key == "exists":
        return "" if isinstance(wanted, bool) else "must be true or false"
    if not isinstance(wanted, str) or not wanted:
        return "must be text in quotes"
    return _fault_of_pattern(wanted) if key == "regex" else ""


def _fault_of_pattern(pattern: str) -> str:
    if PYTHON_ONLY.search(pattern):
        return "must not look ahead or back, and not refer to a group: the engine's regular expressions can't"
    try:
        re.compile(pattern)
    except re.error as error:
        return f"is not a regular expression: {error.msg} at character {(error.pos or 0) + 1}"
    return ""


def _fault_of_values(value: Any) -> str:
    if value == []:
        return "must not be empty"
    if any(isinstance(each, float) and not math.isfinite(each) for each in _values(value)):
        return "must be a number that records can have: not nan, and not infinite"
    if all(isinstance(each, Scalar) for each in _values(value)):
        return ""
    return "must be text in quotes, a number, true or false, a list of these, or a table such as { min = 1 }"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
