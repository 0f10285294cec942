"""Validation: both rules, for every field and type, against the documented field table."""

from typing import Literal

import pytest
from pydantic import ValidationError

from btfeed.records.schema import BY_NAME, FIELDS, Field
from btfeed.records.validation import ValidationSettings, Violation, violations
from tests.support.fieldtable import CATEGORIES, ROWS, Row

ALL = frozenset(FIELDS)
LISTS = ("values", "dimensions")
NONE_SHORT: frozenset[Field] = frozenset()
Rule = Literal["missing", "unexpected"]


def rules(category: str, present: frozenset[Field], short: frozenset[Field] = NONE_SHORT) -> set[str]:
    found = violations(category, present, short)
    assert len(set(found)) == len(found)
    return {str(violation) for violation in found}


def fields(*names: str) -> frozenset[Field]:
    return frozenset(BY_NAME[name] for name in names)


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("row", [row for row in ROWS if row.field not in LISTS], ids=lambda row: row.field)
def test_each_field_alone_breaks_what_the_table_says(row: Row, category: str) -> None:
    """Absent: `missing` if the table says yes (convertedBy: never). Present: `unexpected` if it says no."""
    absent, present = rules(category, ALL - fields(row.field)), rules(category, fields(row.field))
    expected_missing = row.presence(category) == "yes" and row.field != "convertedBy"
    assert (f"missing {row.field}" in absent) == expected_missing
    assert (f"unexpected {row.field}" in present) == (row.presence(category) == "no")
    assert f"missing {row.field}" not in present
    assert f"unexpected {row.field}" not in absent


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_complete_occurrence_breaks_nothing(category: str) -> None:
    """All required fields, with and without the optional ones."""
    required = fields(*(row.field for row in ROWS if row.presence(category) == "yes"))
    optional = fields(*(row.field for row in ROWS if row.presence(category) == "optional"))
    assert rules(category, required) == set()
    assert rules(category, required | optional) == set()
    assert rules(category, required - fields("convertedBy")) == set()


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("name", LISTS)
def test_values_and_dimensions_are_missing_if_they_are_fewer_than_their_names(name: str, category: str) -> None:
    """Their presence does not matter: a transaction without names needs no values."""
    assert f"missing {name}" in rules(category, ALL, fields(name))
    assert f"missing {name}" in rules(category, ALL - fields(name), fields(name))
    assert f"missing {name}" not in rules(category, ALL - fields(name))
    assert not {f"unexpected {other}" for other in LISTS} & rules(category, ALL)


@pytest.mark.parametrize("present", [frozenset(), fields("startTime"), ALL])
def test_an_unknown_type_breaks_one_rule(present: frozenset[Field]) -> None:
    """The table says nothing about its fields."""
    assert violations("unknown", present, fields(*LISTS)) == [Violation("type", "missing")]


@pytest.mark.parametrize("category", CATEGORIES)
def test_violations_come_in_the_tables_order(category: str) -> None:
    """So that reports can be compared."""
    order = [row.field for row in ROWS]
    found = violations(category, fields("query", "visitId", "bounce", "url"), fields(*LISTS))
    positions = [order.index(violation.field) for violation in found]
    assert positions == sorted(positions)
    assert {violation.rule for violation in found} == {"missing", "unexpected"}


def test_violations_are_reported_unless_configured_otherwise() -> None:
    """The real feed breaks the table in good faith."""
    settings = ValidationSettings()
    assert (settings.missing, settings.unexpected) == ("report", "report")


@pytest.mark.parametrize(
    ("rule", "policy", "known"),
    [
        ("missing", "report", True),
        ("missing", "dead-letter", True),
        ("missing", "drop", False),
        ("missing", "deadletter", False),
        ("unexpected", "report", True),
        ("unexpected", "dead-letter", True),
        ("unexpected", "drop", True),
        ("unexpected", "", False),
    ],
)
def test_policies(rule: Rule, policy: str, known: bool) -> None:
    """An absent field cannot be dropped."""
    if known:
        assert getattr(ValidationSettings.model_validate({rule: policy}), rule) == policy
    else:
        with pytest.raises(ValidationError):
            ValidationSettings.model_validate({rule: policy})
