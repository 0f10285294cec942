"""proto/bt.proto, and the code generated from it."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction, BusinessTransactions
from tests.support.fieldtable import ROWS, Row

ROOT = Path(__file__).parents[2]
TYPES = {
    "int32": FieldDescriptor.TYPE_INT32,
    "int64": FieldDescriptor.TYPE_INT64,
    "double": FieldDescriptor.TYPE_DOUBLE,
    "bool": FieldDescriptor.TYPE_BOOL,
    "string": FieldDescriptor.TYPE_STRING,
}


def generator() -> Any:
    """proto/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "proto" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_code_is_what_the_schema_makes() -> None:
    """It is neither edited by hand nor out of date."""
    assert generator().stale() == []


def test_stale_generated_code_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte is enough."""
    generate = generator()
    shutil.copy(ROOT / "btfeed" / "posts" / "bt_pb2.py", tmp_path)
    (tmp_path / "bt_pb2.pyi").write_bytes((ROOT / "btfeed" / "posts" / "bt_pb2.pyi").read_bytes() + b"\n")
    monkeypatch.setattr(generate, "TARGET", tmp_path)
    assert generate.stale() == ["bt_pb2.pyi"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.field)
def test_an_occurrence_has_every_field_of_the_table(row: Row) -> None:
    """With its number, name and type. Lists are unpacked, as AppMon sends them. Only startTime is required."""
    field = BtOccurrence.DESCRIPTOR.fields_by_number[row.tag]
    assert (field.name, field.type) == (row.field, TYPES[row.kind])
    assert (field.is_repeated, field.is_required) == (row.repeated, row.field == "startTime")
    assert not field.is_packed


def test_an_occurrence_has_no_other_field() -> None:
    """Numbers 3 and 4 were never used, and are reserved."""
    assert set(BtOccurrence.DESCRIPTOR.fields_by_number) == {row.tag for row in ROWS}
    assert not {3, 4} & {row.tag for row in ROWS}


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (BusinessTransactions, {1: "businessTransactions", 2: "lostTransactions", 3: "serverName"}),
        (
            BusinessTransaction,
            {
                1: "name",
                2: "type",
                3: "application",
                4: "measureNames",
                5: "dimensionNames",
                6: "occurrences",
                7: "systemProfile",
            },
        ),
    ],
)
def test_the_outer_messages_have_the_feeds_fields(
    message: type[BusinessTransactions | BusinessTransaction], fields: dict[int, str]
) -> None:
    """These fields, and no others."""
    assert {field.number: field.name for field in message.DESCRIPTOR.fields} == fields


def test_the_outer_messages_require_the_name_alone() -> None:
    """As in AppMon's schema. The receiver rejects posts without it."""
    messages = (BusinessTransactions, BusinessTransaction)
    required = [field.name for message in messages for field in message.DESCRIPTOR.fields if field.is_required]
    assert required == ["name"]


def test_types_have_the_feeds_numbers() -> None:
    """Older servers call number 1 PAGE_ACTION; the name is not on the wire."""
    assert dict(BusinessTransaction.Type.items()) == {"PUREPATH": 0, "USER_ACTION": 1, "VISIT": 2}


def test_the_package_is_the_feeds() -> None:
    """So that the schema can be exchanged with AppMon's."""
    options = BusinessTransactions.DESCRIPTOR.file.GetOptions()
    assert BusinessTransactions.DESCRIPTOR.full_name == "export.bt.BusinessTransactions"
    assert options.java_package == "com.dynatrace.diagnostics.core.realtime.export"


def test_another_protobuf_backend_is_refused() -> None:
    """The pure Python backend is too slow and parses differently. The message says what to do."""
    tried = subprocess.run(
        [sys.executable, "-c", "import btfeed.posts.post"],
        env=os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = tried.stderr.splitlines()[-1]
    assert tried.returncode == 1
    assert last.startswith("ImportError: protobuf runs on its 'python' backend; btfeed needs 'upb'")
    assert "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION" in last
