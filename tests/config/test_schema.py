"""The JSON Schema of the configuration: itself valid, complete, and right about what is a configuration."""

import json
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

import sinks
from btfeed.config.keys import keys
from btfeed.config.schema import schema
from btfeed.config.starter import starter
from btfeed.delivery.sink_config import CommonSettings
from tests.config.test_loading import EVERY_KEY

ROOT = Path(__file__).parents[2]
SCHEMA = schema()
VALIDATOR = Draft7Validator(SCHEMA)
OTHER_PAGES = {"flow.md", "generate.md"}
"""Pages whose examples are definitions of flows and profiles."""
PAGES = [page for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if page.name not in OTHER_PAGES]
BLOCKS = {
    f"{page.name}, block {number}": block
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```toml\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE))
}
FILES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for folder in ("deploy", "examples", "btfeed/config")
    for path in (ROOT / folder).rglob("*.toml")
}
OTHERS = {"every key": EVERY_KEY, "of init": starter(sinks.types()), "empty": ""}
EXAMPLES = BLOCKS | FILES | OTHERS


def errors(text: str) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(tomllib.loads(text))]


def test_it_is_a_valid_schema() -> None:
    """By the metaschema of its draft, which editors support."""
    Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == Draft7Validator.META_SCHEMA["$id"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_valid(name: str) -> None:
    """Of the documentation, of deploy/, and what `btfeed init` writes."""
    assert errors(EXAMPLES[name]) == []


def test_there_are_examples_of_each_type_of_sink() -> None:
    """So the test above has something to test."""
    used = {sink["type"] for text in EXAMPLES.values() for sink in tomllib.loads(text).get("sinks", {}).values()}
    assert used == set(sinks.types())
    assert FILES
    assert len(BLOCKS) > 10


SINK = '[sinks.a]\ntype = "file"\n'


@pytest.mark.parametrize(
    "text",
    [
        "[reciever]",
        "receiver = 5",
        "[receiver]\nlisen = 'x'",
        "[receiver]\nlisten = 4321",
        "[receiver]\nlisten = 'localhost'",
        "[receiver]\nlisten = 'http://127.0.0.1:4321'",
        "[admin]\nlisten = '::1:4322'",
        "[receiver]\nmax_body = 5",
        "[receiver]\nmax_body = '5 megs'",
        "[receiver]\nheader_timeout = '5'",
        "[receiver]\nmax_connections = 0",
        "[receiver]\nmax_connections = 1.5",
        "[receiver]\nbearer_tokens = 't'",
        "[receiver.tls]\nkey = 'k'",
        "[journal]\nwhen_full = 'wait'",
        "[record.privacy]\nmask_ip = 'yes'",
        "[sinks.a]",
        "[sinks.a]\ntype = 'flie'",
        f"{SINK}format = 'xml'",
        f"{SINK}bootstrap_servers = 'k:1'",
        f"{SINK}[sinks.a.filter]\ncategory = ['visits']",
        f"{SINK}[sinks.a.filter]\nstatus = []",
        f"{SINK}[sinks.a.delivery]\nin_flight = 65",
        "[sinks.a]\ntype = 'elasticsearch'",
        "[sinks.a]\ntype = 'kafka'\nbootstrap_servers = 5",
        "[sinks.a]\ntype = 'elasticsearch'\nhosts = 'http://e'",
        "[sinks.a]\ntype = 'elasticsearch'\nhosts = []",
        "[sinks.a]\ntype = 'elasticsearch'\nhosts = ['localhost:9200']",
        "[sinks.a]\ntype = 'bizevents'\nurl = 'https://u:p@e'",
        "[sinks.a]\ntype = 'kafka'\nbootstrap_servers = 'k:1'\nschema_registry = { url = 'r:8081' }",
        "[sinks.a.oauth]\ntoken_url = 'sso'",
        "[opentelemetry]\nendpoint = 'localhost:4318'",
    ],
)
def test_a_wrong_configuration_is_not_valid(text: str) -> None:
    """Unknown keys and tables, wrong types, choices, sizes and limits, and missing keys."""
    assert errors(text)


@pytest.mark.parametrize(
    "text",
    [
        "[receiver]\nlisten = '[::1%eth0]:4321'\n[admin]\nlisten = 'größe.example:0'",
        "[sinks.a]\ntype = 'elasticsearch'\nhosts = ['HTTPS://e:9200/x@y', 'http://[::1]:9200', 'https://${HOST}']",
        "[receiver]\nlisten = '${LISTEN}'\nmax_body = '${SIZE:-5MiB}'",
        f"{SINK}format = '${{FORMAT}}'\nmax_records = 5",
        f"{SINK}[sinks.a.filter]\ncategory = ['${{CATEGORY}}']",
        "[sinks.a]\ntype = 'kafka'\nbootstrap_servers = ['a:1', 'b:1']\nformat = 'avro'\nschema_registry = 'http://r'",
    ],
)
def test_other_ways_to_write_a_value_are_valid(text: str) -> None:
    """References in place of any text, lists in place of a text and a text in place of a table where that is possible."""
    assert errors(text) == []


def test_every_key_has_a_description() -> None:
    """In each table, of each type of sink."""

    def without(made: Any, path: str) -> list[str]:
        found = []
        for name, value in made.get("properties", {}).items():
            found += [] if value.get("description") else [f"{path}.{name}"]
            for part in (value, *value.get("anyOf", ())):
                found += without(part, f"{path}.{name}")
        return found

    assert [entry for made in (SCHEMA, *SCHEMA["definitions"].values()) for entry in without(made, "")] == []
    for name in sinks.types():
        own = {key.name for model in (sinks.load(name).settings, CommonSettings) for key in keys(model)}
        assert SCHEMA["definitions"][name]["properties"].keys() == own | sinks.load(name).delivery.keys()


def test_the_schema_is_in_the_package() -> None:
    """For editors. `python -m docs.generate --check` fails if it is out of date."""
    shipped = json.loads(resources.files("btfeed.config").joinpath("btfeed.schema.json").read_text("utf-8"))
    assert shipped == SCHEMA
