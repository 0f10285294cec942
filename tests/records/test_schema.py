"""The field table in btfeed.records.schema agrees with the documented one."""

import pytest

from btfeed.records import schema
from sinks.base import RecordField
from tests.support.fieldtable import BY_FIELD, CATEGORIES, ROWS, Row

ENCODINGS = {
    "RFC 3339 UTC with milliseconds": ("timestamp", "timestamp"),
    "integer nanoseconds": ("nanoseconds", "long"),
    "decimal string": ("decimal", "string"),
    "failure if true, success if false": ("outcome", "string"),
    "string": ("string", "string"),
    "number": ("number", "double"),
    "integer": ("integer", "long"),
    "boolean": ("boolean", "boolean"),
    "array of strings": ("strings", "strings"),
}
"""The schema's encoding for each record_value of the table, and the type that sinks declare for it."""
RECORDS = {field.name: field for field in schema.RECORD_FIELDS}
BY_RECORD = {field.record: field for field in schema.FIELDS}
PER_NAME = ("values", "dimensions")


def test_the_schema_has_the_tables_fields_in_its_order() -> None:
    """All fields, and no others, by number."""
    assert [(field.number, field.name) for field in schema.FIELDS] == [(row.tag, row.field) for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.field)
def test_a_field_is_as_the_table_says(row: Row) -> None:
    """All columns except those about the record."""
    field = schema.BY_NUMBER[row.tag]
    assert schema.BY_NAME[row.field] is field
    assert (field.type, field.repeated, field.older_name) == (row.kind, row.repeated, row.older_name)
    assert (field.unit == "ms") == row.type.endswith(" ms")
    words = {"Y": "yes", "N": "no", "O": "optional"}
    assert [words[field.presence_in(category)] for category in CATEGORIES] == [*map(row.presence, CATEGORIES)]


@pytest.mark.parametrize("row", [row for row in ROWS if row.field not in PER_NAME], ids=lambda row: row.field)
def test_a_record_field_is_as_the_table_says(row: Row) -> None:
    """Its name, its encoding, and the type that sinks declare."""
    field = BY_RECORD[row.record_field]
    encoding, record_type = ENCODINGS[row.record_value]
    assert (field.number, field.encoding) == (row.tag, encoding)
    assert RECORDS[row.record_field].type == record_type


@pytest.mark.parametrize(("name", "encoding"), [("values", "measures"), ("dimensions", "dimensions")])
def test_measures_and_dimensions_are_prefixes(name: str, encoding: str) -> None:
    """Users choose the names of their fields, so sinks get the prefix."""
    row = BY_FIELD[name]
    prefix = row.record_field.removesuffix("<name>")
    field = BY_RECORD[prefix]
    declared = {field.name: field.type for field in schema.MAPS}
    assert (field.number, field.encoding) == (row.tag, encoding)
    assert declared[prefix] == {"number": "double", "string": "string"}[row.record_value]
    assert prefix not in RECORDS


def test_what_a_record_says_beyond_the_occurrence() -> None:
    """The fields of the post and the business transaction come first. All are text."""
    names = ["kind", "id", "type", "provider", "category", "name"]
    expected = [f"event.{name}" for name in names] + ["appmon.application", "appmon.system_profile", "appmon.server"]
    assert [field.name for field in schema.CONSTANTS] == expected
    assert {field.type for field in schema.CONSTANTS} == {"string"}
    assert schema.RECORD_FIELDS[: len(expected)] == schema.CONSTANTS


def test_no_record_field_has_two_sources() -> None:
    """No field starts with the prefix of measures or dimensions, where a user's name could be the same."""
    names = [field.name for field in schema.RECORD_FIELDS]
    assert len(names) == len(set(names)) == len(schema.CONSTANTS) + len(ROWS) - len(PER_NAME)
    assert not [name for name in names if name.startswith(tuple(field.name for field in schema.MAPS))]


def test_what_every_record_has() -> None:
    """Sinks rely on the identity of a record and its time. Other fields may be absent or dropped."""

    def always(field: RecordField) -> bool:
        return field.always

    assert [field.name for field in filter(always, schema.RECORD_FIELDS)] == ["event.kind", "event.id", "timestamp"]


def test_categories_are_in_the_order_of_the_types_numbers() -> None:
    """PUREPATH is 0, USER_ACTION 1, VISIT 2."""
    assert schema.CATEGORIES == CATEGORIES
