"""The configuration as it takes effect: complete, without secrets, and itself a configuration."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from btfeed import config
from btfeed.config.effective import effective, toml_lines
from btfeed.config.loading import DEFAULT, NotRead
from tests.config.test_loading import EVERY_KEY

ENVIRONMENT = {"PASSWORD": "SECRET-1", "TOKEN": "SECRET-2", "KEY": "SECRET-3"}
SINKS: dict[str, Any] = {
    "k": {
        "type": "kafka", "bootstrap_servers": ["a:1", "b:2"], "format": "avro", "schema_registry": "https://registry/x",
        "security": {"sasl": "PLAIN", "username": "u", "password": "${PASSWORD}"}, "timeout": "1m500ms",
    },
    "e": {"type": "elasticsearch", "hosts": ["https://e:9200"], "auth": {"basic": {"username": "u", "password": "SECRET"}}},
    "d": {"type": "bizevents", "url": "https://e.live.dynatrace.com", "api_token": "${NONE:-SECRET}", "max_age": "0.5ms"},
    "with a blank": {"type": "file", "filter": {"name": ['"\\\n\x7f é', "${TOKEN}"]}},
}  # fmt: skip


def shown(tables: dict[str, Any], environment: dict[str, str], base: Path | None = None) -> str:
    loaded = config.parse(tables, environment, base, tolerant=True)
    return "\n".join(toml_lines(effective(loaded, tables)))


@pytest.mark.parametrize("tables", [tomllib.loads(EVERY_KEY), {"sinks": SINKS}, DEFAULT, {}], ids=str)
def test_what_is_shown_is_the_same_configuration(tables: dict[str, Any], tmp_path: Path) -> None:
    """With the same secrets. Those that are not references are hidden, so they differ."""
    text = shown(tables, ENVIRONMENT, tmp_path)
    one, two = config.parse(tables, ENVIRONMENT, tmp_path), config.parse(tomllib.loads(text), ENVIRONMENT, tmp_path)
    again = "\n".join(toml_lines(effective(two, tomllib.loads(text))))
    assert again == text
    for table in ("admin", "journal", "validation"):
        assert getattr(one, table) == getattr(two, table)
    assert {name: (sink.type, sink.common) for name, sink in one.sinks.items()} == {
        name: (sink.type, sink.common) for name, sink in two.sinks.items()
    }


def test_paths_are_shown_as_the_places_that_they_are(tmp_path: Path) -> None:
    """Also with .. after a link, where the text of the path does not say what the place is."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    tables = {"journal": {"directory": "link/../out"}, "sinks": {"a": {"type": "file", "directory": "../b"}}}
    found = effective(config.parse(tables, {}, tmp_path), tables)
    assert found["journal"]["directory"] == str(tmp_path / "real" / "out")
    assert found["sinks"]["a"]["directory"] == str(tmp_path.parent / "b")


def test_secrets_are_shown_as_references_or_hidden() -> None:
    """A literal one, one with a default and one beside other text are hidden."""
    receiver = {
        "bearer_tokens": ["${TOKEN}", "SECRET", "x${TOKEN}", "${file:/f}", "${credential:c}", "${TOKEN:-SECRET}", "$${a}"]
    }
    loaded = config.parse({"receiver": receiver, "sinks": SINKS}, ENVIRONMENT | {"NONE": "y"}, tolerant=True)
    found = effective(loaded, {"receiver": receiver, "sinks": SINKS})
    assert found["receiver"]["bearer_tokens"] == [
        "${TOKEN}", "***", "***", "${file:/f}", "${credential:c}", "***", "***",
    ]  # fmt: skip
    headers = tomllib.loads(shown(tomllib.loads(EVERY_KEY), ENVIRONMENT))["opentelemetry"]["headers"]
    assert headers == {"authorization": "${TOKEN}", "x-tenant": "***"}
    assert found["sinks"]["k"]["security"]["password"] == "${PASSWORD}"
    assert found["sinks"]["e"]["auth"]["basic"]["password"] == "***"
    assert found["sinks"]["d"]["api_token"] == "***"


@pytest.mark.parametrize(
    "tables",
    [
        {"admin": {"listen": "${NONE}"}},
        {"sinks": {"e": {"type": "elasticsearch", "hosts": ["${NONE}"]}}},
    ],
)
def test_a_table_that_can_not_be_known_is_neither_left_out_nor_shown_with_its_defaults(tables: dict[str, Any]) -> None:
    """The caller has to say so."""
    with pytest.raises(NotRead):
        effective(config.parse(tables, {}, tolerant=True), tables)
