"""Validation: the two rules, for every field in every type, judged by the documented table."""

from typing import Literal

import pytest
from pydantic import ValidationError

from btfeed.records.validation import ValidationSettings, Violation, violations
from tests.support.fieldtable import BY_FIELD, CATEGORIES, ROWS, Row

ALL = {row.tag for row in ROWS}
LISTS = ("values", "dimensions")
Rule = Literal["missing", "unexpected"]


def rules(category: str, present: set[int], values_missing: bool = False, dimensions_missing: bool = False) -> set[str]:
    found = violations(category, present, values_missing, dimensions_missing)
    assert len(set(found)) == len(found)
    return {str(violation) for violation in found}


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("row", [row for row in ROWS if row.field not in LISTS], ids=lambda row: row.field)
def test_each_field_alone_breaks_what_the_table_says(row: Row, category: str) -> None:
    """Absent: `missing` where the table says yes (convertedBy: never). Present: `unexpected` where it says no."""
    absent, present = rules(category, ALL - {row.tag}), rules(category, {row.tag})
    expected_missing = row.presence(category) == "yes" and row.field != "convertedBy"
    assert (f"missing {row.field}" in absent) == expected_missing
    assert (f"unexpected {row.field}" in present) == (row.presence(category) == "no")
    assert f"missing {row.field}" not in present
    assert f"unexpected {row.field}" not in absent


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_complete_occurrence_breaks_nothing(category: str) -> None:
    """All that the table wants, with and without what is optional there."""
    wanted = {row.tag for row in ROWS if row.presence(category) == "yes"}
    optional = {row.tag for row in ROWS if row.presence(category) == "optional"}
    assert rules(category, wanted) == set()
    assert rules(category, wanted | optional) == set()
    assert rules(category, wanted - {BY_FIELD["convertedBy"].tag}) == set()


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("name", LISTS)
def test_values_and_dimensions_are_missing_where_they_are_fewer_than_their_names(name: str, category: str) -> None:
    """Whether the list is there does not matter: a transaction without names wants none."""
    tag = BY_FIELD[name].tag
    fewer = {"values_missing": name == "values", "dimensions_missing": name == "dimensions"}
    assert f"missing {name}" in rules(category, ALL, **fewer)
    assert f"missing {name}" in rules(category, ALL - {tag}, **fewer)
    assert f"missing {name}" not in rules(category, ALL - {tag})
    assert not {f"unexpected {other}" for other in LISTS} & rules(category, ALL)


@pytest.mark.parametrize("present", [set(), {1}, ALL])
def test_an_unknown_type_breaks_one_rule(present: set[int]) -> None:
    """Nothing can be said of its fields."""
    assert violations("unknown", present, True, True) == (Violation("type", "missing"),)


@pytest.mark.parametrize("category", CATEGORIES)
def test_violations_come_in_the_tables_order(category: str) -> None:
    """So that reports compare."""
    order = [row.field for row in ROWS]
    found = [order.index(violation.field) for violation in violations(category, {3, 4, 10, 11}, True, True)]
    assert found == sorted(found)


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
    """What is absent can't be dropped."""
    if known:
        assert getattr(ValidationSettings.model_validate({rule: policy}), rule) == policy
    else:
        with pytest.raises(ValidationError):
            ValidationSettings.model_validate({rule: policy})
