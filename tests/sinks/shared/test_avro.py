"""Records as Avro: typed, with measures and dimensions as maps, and records that don't fit refused alone."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import pytest

from btfeed.posts.post import digest
from btfeed.records.mapper import create_mapper
from btfeed.records.schema import MAPS, RECORD_FIELDS
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from sinks.base import SinkContext
from sinks.batch import Batch
from sinks.shared.avro import avro_converter, avro_schema
from tests.sinks.drivers.file import CONTEXT, canonical, file_sink, json_of, only_file, read_avro
from tests.support import posts
from tests.support.fakes import batch_of, mapped

HEAD = {"event.kind": "BIZ_EVENT", "event.id": "x-0", "timestamp": "2026-01-31T12:00:00.000Z"}


async def written(directory: Path, batch: Batch, **settings: str) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """The content of the file after writing `batch`, and what was refused."""
    sink = file_sink(directory, {"format": "avro"} | settings)
    await sink.open(None)
    result = await sink.write(batch)
    await sink.close()
    return read_avro(only_file(directory).read_bytes()), result.refused


@pytest.mark.parametrize("kind", posts.SAMPLES)
async def test_every_field_comes_back_as_what_it_was(tmp_path: Path, kind: str) -> None:
    """AppMon's samples with user attributes, read by fastavro, are the same JSON records."""
    attributes = {"environment": "prod", "number": 7, "share": 0.5, "on": True, "user.department": 3}
    body = posts.SAMPLES[kind]()
    mapper = create_mapper(RecordSettings.model_validate({"attributes": attributes}), ValidationSettings())
    batch = mapper.map(body, digest(body)).batch
    records, refused = await written(tmp_path, batch)
    assert [json_of(record) for record in records] == [canonical(line) for line in batch.bodies]
    assert not refused
    assert records[0]["attributes"]["environment"] == "prod"


async def test_types_are_those_of_the_field_table(tmp_path: Path) -> None:
    """Timestamps, numbers and lists keep their types, absent fields are null, and maps have the user's names."""
    body = posts.sample_visit()
    batch = create_mapper(RecordSettings(), ValidationSettings()).map(body, digest(body)).batch
    ((record,), _) = await written(tmp_path, batch)
    assert record["timestamp"] == datetime(2013, 1, 16, 10, 5, 57, 840_000, UTC)
    assert record["appmon_visit_converted_by"] == ["conv", "by"]
    assert (record["duration"], record["appmon_visit_apdex"], record["appmon_visit_bounce"]) == (74632000000, 0.75, False)
    assert (record["appmon_measure"], record["appmon_dimension"]) == ({"measurekey": 1.0}, {"splittingkey": "splitting"})
    assert (record["appmon_visit_id"], record["url_full"]) == ("8589934592", None)


@pytest.mark.parametrize(
    ("compression", "codec"),
    [("none", "null"), ("null", "null"), ("deflate", "deflate"), ("zstandard", "zstandard"), ("zstd", "zstandard")],
)
async def test_the_codec_is_in_the_header(tmp_path: Path, compression: str, codec: str) -> None:
    """With its name in Avro, so that every reader finds it."""
    await written(tmp_path, mapped(3), compression=compression)
    with only_file(tmp_path).open("rb") as file:
        assert fastavro.reader(file).codec == codec


def test_the_schema_has_every_field() -> None:
    """With a legal name, a default that makes new fields compatible, and a doc with the record's field."""
    schema = avro_schema(CONTEXT)
    fields = {field["name"]: field for field in schema["fields"]}
    assert len(fields) == len(RECORD_FIELDS) + len(MAPS) + 1
    always = {name for name, field in fields.items() if "default" not in field}
    assert always == {"event_kind", "event_id", "timestamp"}
    assert fields["duration"]["doc"].startswith("duration: ")
    fastavro.parse_schema(schema)


@pytest.mark.parametrize("value", [True, 1, -(2**63), 2**64 - 1, 0.5, "text"])
def test_what_does_not_fit_a_field_is_an_attribute(value: object) -> None:
    """A constant, or a hash in place of a number, keeps its name and type."""
    record = avro_converter(CONTEXT)(json.dumps(HEAD | {"appmon.visit.converted_by": value, "my.own": value}).encode())
    assert record["attributes"] == {"appmon.visit.converted_by": value, "my.own": value}
    assert type(record["attributes"]["my.own"]) is type(value)


async def test_the_first_and_the_last_moment_fit(tmp_path: Path) -> None:
    """All timestamps that a record may have."""
    moments = ["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"]
    batch = batch_of([json.dumps(HEAD | {"timestamp": moment}).encode() for moment in moments])
    records, refused = await written(tmp_path, batch)
    assert [json_of(record) for record in records] == [canonical(body) for body in batch.bodies]
    assert not refused


@pytest.mark.parametrize("odd", [{"my.own": None}, {"duration": 2**70}, {"timestamp": "soon"}, {"event.id": None}])
@pytest.mark.parametrize("place", [0, 3, 299])
async def test_a_record_that_does_not_fit_is_refused_alone(tmp_path: Path, odd: dict[str, Any], place: int) -> None:
    """By its index and with a reason, in the same write; its neighbors are there once."""
    records: list[dict[str, Any]] = [HEAD | {"event.id": f"x-{number}"} for number in range(300)]
    records[place] |= odd
    batch = batch_of([json.dumps(record).encode() for record in records])
    found, refused = await written(tmp_path, batch)
    assert [record["event_id"] for record in found] == [f"x-{number}" for number in range(300) if number != place]
    assert list(refused) == [place]
    assert refused[place].startswith("does not fit the Avro schema: ")


async def test_a_bug_in_writing_is_not_blamed_on_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If each record fits by itself, the error is raised unchanged, and nothing is written."""
    sink = file_sink(tmp_path, {"format": "avro"})
    await sink.open(None)
    state = (await sink.write(mapped(2))).state

    def broken(bodies: list[bytes]) -> bytes:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(sink._encoder, "_blocks", broken)
        with pytest.raises(ZeroDivisionError):
            await sink.write(mapped(2, 1))
    assert (await sink.write(Batch())).state == state
    await sink.close()


def test_a_context_of_few_fields() -> None:
    """The schema has the fields in the SinkContext."""
    context = SinkContext("x", RECORD_FIELDS[:2], MAPS[:1])
    assert [field["name"] for field in avro_schema(context)["fields"]] == [
        "event_kind", "event_id", "appmon_measure", "attributes",
    ]  # fmt: skip
