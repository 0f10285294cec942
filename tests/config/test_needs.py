"""A command reads the tables that it needs, and nothing that is wrong or missing in others concerns it."""

from pathlib import Path

import pytest

from btfeed import config
from btfeed.config.loading import NotRead
from btfeed.faults import ConfigError
from btfeed.journal import create as journals

TEXT = """
unknown = 1
[receiver]
listen = 5
bearer_tokens = ["${TOKEN}"]
[admin]
listen = "127.0.0.1:1"
[journal]
directory = "data"
[record.privacy]
key = "${KEY}"
[sinks.a]
type = "no such type"
token = "${TOKEN}"
filter = { category = ["visit"] }
[sinks.b]
type = "file"
directory = "${PLACE}"
[sinks]
c = 5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "btfeed.toml"
    path.write_text(TEXT.replace("[sinks]\nc = 5\n", ""))
    return path


def test_a_table_is_read_whatever_is_wrong_in_others(file: Path) -> None:
    """Missing variables, unknown keys and wrong values."""
    assert config.load(file, {}, ["admin"]).admin.listen == "127.0.0.1:1"
    assert journals.directories(config.load(file, {}, ["journal"]).journal) == [file.parent / "data"]


def test_filters_are_read_without_the_rest_of_a_sink(file: Path) -> None:
    """Of every sink, those of wrong ones included."""
    found = config.load(file, {}, ["filters"]).filters
    assert {name: each.category for name, each in found.items()} == {"a": ["visit"], "b": []}


@pytest.mark.parametrize("table", ["receiver", "record", "sinks"])
def test_what_is_wrong_in_a_table_that_is_needed_is_an_error(table: str, file: Path) -> None:
    """And only that."""
    with pytest.raises(ConfigError) as raised:
        config.load(file, {}, [table])
    assert {fault.partition(".")[0] for fault in raised.value.faults} == {table}


def test_a_table_that_was_not_asked_for_can_not_be_used(file: Path) -> None:
    """Its defaults would be mistaken for what is configured."""
    found = config.load(file, {}, ["admin"])
    with pytest.raises(NotRead, match=r"\[journal\] was not read: name it in `needs`"):
        journals.directories(found.journal)
    with pytest.raises(NotRead):
        found.sinks.items()


def test_a_tolerant_load_names_what_is_missing(file: Path) -> None:
    """The other tables are complete. A table that can't be valid with the reference in it is not read."""
    file.write_text('[receiver]\nbearer_tokens = ["${A}"]\n[admin]\nlisten = "${B}"\n[sinks.a]\ntype = "file"\n')
    found = config.load(file, {}, tolerant=True)
    assert found.unresolved == {
        "receiver.bearer_tokens.0": "environment variable A is not set",
        "admin.listen": "environment variable B is not set",
    }
    assert {table for table in ("receiver", "admin", "journal", "sinks.a") if found.is_complete(table)} == {
        "journal",
        "sinks.a",
    }
    assert found.is_complete("receiver.listen")
    assert not found.is_complete("receiver.bearer_tokens")
    assert not found.is_complete("admin.token")
    assert found.receiver.listen == "127.0.0.1:4321"
    with pytest.raises(NotRead):
        _ = found.admin.listen


def test_a_tolerant_load_reports_other_errors(file: Path) -> None:
    """All of them, with what is missing."""
    file.write_text('[receiver]\nlisten = "x"\nbearer_tokens = ["${A}"]\n')
    with pytest.raises(ConfigError) as raised:
        config.load(file, {}, tolerant=True)
    assert len(raised.value.faults) == 2
