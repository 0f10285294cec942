"""A new field of the feed: each place that must know it, with a message that says what to do if it was forgotten."""

import hashlib
import re
from pathlib import Path

import pytest

from btfeed.posts.bt_pb2 import BtOccurrence
from btfeed.posts.post import digest
from btfeed.records.encoding import ENCODERS
from btfeed.records.mapper import create_mapper
from btfeed.records.schema import FIELDS, MAPS, RECORD_FIELDS, Field
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from sinks.base import SinkContext
from sinks.elasticsearch.index import TEMPLATE_VERSION, IndexName, index_template
from tests.records.mapping import occurrence, transaction
from tests.support.fieldtable import ROWS
from tests.support.posts import START
from tests.support.wire import post

DOCS = Path(__file__).parents[2] / "docs" / "record.md"
PLACES = {
    "proto/bt.proto": {(field.number, field.name) for field in BtOccurrence.DESCRIPTOR.fields},
    "btfeed/records/schema.py": {(field.number, field.name) for field in FIELDS},
    "tests/support/fields.csv": {(row.tag, row.field) for row in ROWS},
    "docs/record.md": {
        (int(number), name) for name, number in re.findall(r"\| `(\w+)` \((\d+)\)", DOCS.read_text(encoding="utf-8"))
    },
}
ADVICE = {
    "proto/bt.proto": "add it there, then run `make proto`",
    "btfeed/records/schema.py": "add a line to FIELDS",
    "tests/support/fields.csv": "add a line as AppMon documents it",
    "docs/record.md": "run `make docs`",
}
INDEX_TEMPLATE = (1, "034b35ad6ee970cb")
"""TEMPLATE_VERSION (sinks/elasticsearch/index.py), and the start of the SHA-256 of the template's field names and types."""


@pytest.mark.parametrize("place", PLACES)
def test_every_place_has_the_fields_of_the_others(place: str) -> None:
    """The message names the field, the place that lacks it, and what to do there."""
    forgotten = [
        f"{name} ({number}) is in {other}, but not in {place}: {ADVICE[place]}"
        for other, fields in PLACES.items()
        for number, name in sorted(fields - PLACES[place])
    ]
    assert not forgotten, "\n".join(forgotten)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_can_be_written(field: Field) -> None:
    """Its encoding is known, and sinks get a type for it."""
    assert field.encoding in ENCODERS, f"{field.encoding} is not in ENCODERS of btfeed/records/encoding.py: add it there"
    declared = {declared.name for declared in (*RECORD_FIELDS, *MAPS)}
    assert field.record in declared, f"{field.record} is not in RECORD_FIELDS of btfeed/records/schema.py"


def test_the_mapper_that_runs_knows_every_field() -> None:
    """It writes each field of proto/bt.proto, and counts none of them as unknown."""
    advice = "see Table::add in native/transcoder/src/table.rs, if the native mapper runs"
    try:
        mapper = create_mapper(RecordSettings(), ValidationSettings())
    except ValueError as error:
        raise AssertionError(f"the native mapper rejects the field table ({error}): {advice}") from error
    values = {"int32": 1, "int64": START, "double": 1.0, "bool": True, "string": "x"}
    for field in FIELDS:
        if (field.number, field.name) in PLACES["proto/bt.proto"]:
            value = values[field.type]
            body = post(transaction(occurrence(**{field.name: [value] if field.repeated else value})))
            result = mapper.map(body, digest(body))
            written = f'"{field.record}' in result.batch.ndjson.decode() and not result.counts.unknown_fields
            assert written, f"the mapper does not write {field.name} ({field.number}): {advice}"


def test_elasticsearch_gets_every_field_and_a_new_version_of_its_template() -> None:
    """Servers replace a template only by one with a higher version."""
    template = index_template(IndexName("x"), False, SinkContext("x", RECORD_FIELDS, MAPS))
    properties = template["template"]["mappings"]["properties"]
    forgotten = [field.name for field in RECORD_FIELDS if field.name not in properties]
    assert not forgotten, f"the index template lacks {forgotten}: see index_template in sinks/elasticsearch/index.py"
    fields = repr([(field.name, field.type) for field in RECORD_FIELDS])
    found = hashlib.sha256(fields.encode()).hexdigest()[:16]
    assert (TEMPLATE_VERSION, found) == INDEX_TEMPLATE, (
        f"the fields of records changed: raise TEMPLATE_VERSION in sinks/elasticsearch/index.py and set INDEX_TEMPLATE to "
        f"({TEMPLATE_VERSION + 1}, {found!r}) here"
    )
