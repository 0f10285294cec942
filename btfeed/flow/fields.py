"""Fields of records that a definition reads."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from btfeed.flow.definition import Definition

TIME, END, TYPE, DURATION, ID, OUTCOME = "timestamp", "end_time", "event.type", "duration", "event.id", "event.outcome"
"""Fields of every record; see btfeed/records/schema.py."""
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


def _named(definition: "Definition") -> Iterator[tuple[tuple[str, ...], str]]:
    """The fields that a definition names, each with its path."""
    matches: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("where",), definition.where),
        (("ends",), definition.ends or {}),
        (("exceptions", "when"), definition.exceptions.when),
    ]
    for place, step in enumerate(definition.steps):
        matches.append((("steps", str(place), "match"), step.match))
        matches += [(("steps", str(place), "exceptions", str(n)), match) for n, match in enumerate(step.exceptions)]
    yield from ((("correlation",), field) for field in definition.correlations)
    yield from (((*path, field), field) for path, match in matches for field in match)
    if definition.value:
        yield ("value", "field"), definition.value.field
    yield from ((("dimensions", name), field) for name, field in definition.dimensions.items())
