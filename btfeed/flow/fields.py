"""Fields of records that a definition reads."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from btfeed.flow.definition import Definition

TIME, END, TYPE, DURATION, ID, OUTCOME = "timestamp", "end_time", "event.type", "duration", "event.id", "event.outcome"
"""Fields of every record; see btfeed/records/schema.py."""
VISIT = "appmon.visit.id"
"""The field that the records of one visit share."""
ALWAYS = (TIME, END, TYPE, DURATION, ID)
"""Those that every report reads."""


TEXT, MOMENT, WHOLE = "VARCHAR", "TIMESTAMP WITH TIME ZONE", "BIGINT"
_TYPES = {TIME: MOMENT, END: MOMENT, DURATION: WHOLE}


def fields(definition: "Definition") -> list[str]:
    """The record fields that a report reads, sorted. Sources can leave out others; a trace needs all."""
    return sorted({*ALWAYS, *(field for _, field in _named(definition))})


def types(definition: "Definition") -> dict[str, str]:
    """These fields with the types in SQL that they are read as: texts, but for times and durations, which the reader of
    files converts faster than a query does. One that the definition names is a text, to be compared as that."""
    named = {field for _, field in _named(definition)}
    return {field: TEXT if field in named else _TYPES.get(field, TEXT) for field in fields(definition)}


def alike(definition: "Definition") -> Iterator[tuple[tuple[str, ...], str]]:
    """Where a definition names a field that differs only in upper and lower case from another: the engine takes them for
    one. With the message."""
    known = {field: field for field in ALWAYS}
    for path, field in _named(definition):
        if (other := known.setdefault(field.lower(), field)) != field:
            yield path, f"the fields {other!r} and {field!r} differ only in upper and lower case; leave out one of them"


def expected(definition: "Definition") -> dict[str, str]:
    """The fields that records of a flow have if the definition names them rightly -> where it does, in words. Not among
    them: those of the correlation, of which a record may have another, that must not exist, or that nobody wrote."""
    found: dict[str, str] = {}
    for path, field, condition in _conditions(definition):
        unwritten = path[0] == "exceptions" and "exceptions" not in definition.model_fields_set
        absent = isinstance(condition, dict) and condition.get("exists") is False
        if path[0] != "correlation" and not unwritten and not absent:
            found.setdefault(field, spoken(path, [step.name for step in definition.steps]))
    return found


def spoken(path: Sequence[str], steps: Sequence[str]) -> str:
    """A path of a definition in words: steps by their names."""
    if path[0] == "steps" and len(path) > 1:
        return f"step {steps[int(path[1])]}"
    return ".".join(path[:2] if path[0] in ("exceptions", "value", "dimensions") else path[:1])


def _named(definition: "Definition") -> Iterator[tuple[tuple[str, ...], str]]:
    """The fields that a definition names, each with its path."""
    yield from ((path, field) for path, field, _ in _conditions(definition))


def _conditions(definition: "Definition") -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """The same, and what the field has to be in a match."""
    matches: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("where",), definition.where),
        (("ends",), definition.ends or {}),
        (("exceptions", "when"), definition.exceptions.when),
    ]
    for place, step in enumerate(definition.steps):
        matches.append((("steps", str(place), "match"), step.match))
        matches += [(("steps", str(place), "exceptions", str(n)), match) for n, match in enumerate(step.exceptions)]
    yield from ((("correlation",), field, None) for field in definition.correlations)
    yield from (((*path, field), field, condition) for path, match in matches for field, condition in match.items())
    if definition.value:
        yield ("value", "field"), definition.value.field, None
    yield from ((("dimensions", name), field, None) for name, field in definition.dimensions.items())
