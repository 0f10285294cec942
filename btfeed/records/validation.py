"""Validation: which fields an occurrence of each type must have, and which it must not have.

Even AppMon's own sample client breaks the field table (it sends visitId on a PurePath). So a violation is counted, and the
record delivered, unless the configuration says otherwise.
"""

from collections.abc import Set
from typing import Literal, NamedTuple

from btfeed.records.schema import CATEGORIES, CONVERTED_BY, DIMENSIONS, FIELDS, UNKNOWN, VALUES, Field
from sinks.settings import Settings


class ValidationSettings(Settings):
    """What to do with an occurrence that breaks a rule.

    missing     for a required field that is absent: "report" delivers the record and counts the violation, "dead-letter"
                moves the record to the dead letters
    unexpected  for a field that this type of occurrence must not have: "report", "dead-letter", or "drop", which delivers
                the record without the field
    """

    missing: Literal["report", "dead-letter"] = "report"
    unexpected: Literal["report", "dead-letter", "drop"] = "report"


class Violation(NamedTuple):
    """field: a name in proto/bt.proto, or `type`."""

    field: str
    rule: Literal["missing", "unexpected"]

    def __str__(self) -> str:
        return f"{self.rule} {self.field}"


def _fields(category: str, presence: str) -> frozenset[Field]:
    return frozenset(field for field in FIELDS if field.presence_in(category) == presence)


_REQUIRED = {category: _fields(category, "Y") - {VALUES, DIMENSIONS, CONVERTED_BY} for category in CATEGORIES}
"""Values and dimensions are counted instead; convertedBy is never missing, since it may be an empty list."""
_FORBIDDEN = {category: _fields(category, "N") for category in CATEGORIES}


def violations(category: str, present: Set[Field], short: Set[Field]) -> list[Violation]:
    """The rules that an occurrence breaks, in the order of the field table.

    present: the fields that it has. short: VALUES or DIMENSIONS, if it has fewer of them than its transaction has names.
    """
    if category == UNKNOWN:
        return [Violation("type", "missing")]
    missing = _REQUIRED[category] - present | short
    unexpected = _FORBIDDEN[category] & present
    broken = sorted(missing | unexpected, key=lambda field: field.number)
    return [Violation(field.name, "missing" if field in missing else "unexpected") for field in broken]
