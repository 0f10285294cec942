"""Validation against the field table: what must be in an occurrence of its type, and what must not.

The real feed breaks the table in good faith (AppMon's own sample client sends visitId on a PurePath), so a violation is
reported and the record delivered, unless the configuration says otherwise.
"""

from collections.abc import Collection
from typing import Literal, NamedTuple

from btfeed.records.schema import CONVERTED_BY, DIMENSIONS, FIELDS, UNKNOWN, VALUES
from sinks.settings import Settings


class ValidationSettings(Settings):
    """What happens to an occurrence that breaks a rule.

    missing     a field that must be there is absent: "report" delivers it, "dead-letter" keeps it with the dead letters
    unexpected  a field that must not be there is present: likewise, or "drop", which delivers it without the field
    """

    missing: Literal["report", "dead-letter"] = "report"
    unexpected: Literal["report", "dead-letter", "drop"] = "report"


class Violation(NamedTuple):
    """field: its name in proto/bt.proto, or `type`."""

    field: str
    rule: Literal["missing", "unexpected"]

    def __str__(self) -> str:
        return f"{self.rule} {self.field}"


_MISSING = {field: Violation(field.name, "missing") for field in FIELDS}
_UNEXPECTED = {field: Violation(field.name, "unexpected") for field in FIELDS}


def violations(
    category: str, present: Collection[int], values_missing: bool, dimensions_missing: bool
) -> tuple[Violation, ...]:
    """Every rule that an occurrence breaks, in the order of the field table.

    present: the numbers of the fields that it carries. values_missing, dimensions_missing: it has fewer of them than its
    transaction has names.
    """
    if category == UNKNOWN:
        return (Violation("type", "missing"),)
    counted = {VALUES: values_missing, DIMENSIONS: dimensions_missing, CONVERTED_BY: False}
    found = []
    for field in FIELDS:
        presence = field.presence_in(category)
        there = field.number in present
        if presence == "Y" and counted.get(field, not there):
            found.append(_MISSING[field])
        elif presence == "N" and there:
            found.append(_UNEXPECTED[field])
    return tuple(found)
