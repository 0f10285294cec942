"""The configuration that `btfeed init` writes."""

import re
import tomllib

import pytest

import sinks
from btfeed import config
from btfeed.config.starter import REPLACE, references, starter, to_replace
from btfeed.faults import ConfigError
from sinks.settings import Settings

TYPES = sinks.types()


def uncommented(text: str) -> str:
    """With every key and table that is commented out."""
    return re.sub(r"^#(?=[\w\[])", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("types", [["file"], TYPES, *[[name] for name in TYPES], []])
def test_it_is_a_configuration_once_its_variables_are_set(types: list[str]) -> None:
    """With a sink of each type, and everything else as by default."""
    text = starter(types)
    found = config.parse(tomllib.loads(text), dict.fromkeys(references(text), "x"))
    assert [sink.common.type for sink in found.sinks.values()] == types
    default = config.load(None, {})
    for table in ("receiver", "admin", "journal", "validation", "record"):
        assert getattr(found, table) == getattr(default, table)


@pytest.mark.parametrize("name", TYPES)
def test_it_sets_only_what_a_first_configuration_needs(name: str) -> None:
    """What is left out has its default; the defaults of the type's deliveries are shown as they are."""
    text = starter([name])
    environment = dict.fromkeys(references(text), "x")
    found = config.parse(tomllib.loads(text), environment).sinks[name]
    example = {"type": name, **sinks.load(name).example}
    wanted = config.parse({"sinks": {name: example}}, environment).sinks[name]
    assert (found.common, found.settings) == (wanted.common, wanted.settings)
    shown = tomllib.loads(uncommented(text))["sinks"][name]["delivery"]
    with_shown = config.parse({"sinks": {name: example | {"delivery": shown}}}, environment).sinks[name].common.delivery
    assert with_shown.model_copy(update={"max_age": wanted.common.delivery.max_age}) == wanted.common.delivery


@pytest.mark.parametrize("name", TYPES)
def test_examples_to_replace_are_marked(name: str) -> None:
    """Whatever is set, and is neither the type nor a reference that stands for the user's own value."""
    text = starter([name])
    example = {key: value for key, value in sinks.load(name).example.items() if isinstance(value, str | list)}
    wanted = [f"sinks.{name}.{key}" for key, value in example.items() if "${" not in str(value)]
    assert sorted(to_replace(text)) == sorted(wanted)
    assert text.count(REPLACE) == len(wanted)


def test_every_key_is_there_with_its_meaning() -> None:
    """Commented out or not. With the comments removed, it is TOML without an unknown key, and lacks none."""
    text = starter(TYPES)
    tables = tomllib.loads(uncommented(text))
    for name in TYPES:
        assert tables["sinks"][name].keys() == sinks.load(name).settings.model_fields.keys() | {
            "type", "start", "delivery", "filter",
        }  # fmt: skip
    for table in ("receiver", "admin", "journal", "validation", "record"):
        settings: Settings = getattr(config.load(None, {}), table)
        assert tables[table].keys() == type(settings).model_fields.keys()
    with pytest.raises(ConfigError) as raised:
        config.parse(tables, dict.fromkeys(references(uncommented(text)), "x"))
    assert [fault for fault in raised.value.faults if "unknown key" in fault or "is required" in fault] == []
    for block in re.split(r"\n\n", text):
        for line in re.findall(r"^#?[\w\[].*", block, re.MULTILINE):
            assert block.startswith("# ") or line.startswith("type ="), line


@pytest.mark.parametrize("name", TYPES)
def test_secrets_are_references(name: str) -> None:
    """So nobody writes one into a file that is copied around."""
    text = uncommented(starter([name]))
    for key in ("password", "token", "api_token", "api_key", "client_secret", "bearer", "key"):
        for value in re.findall(rf"^{key} = (.*)$", text, re.MULTILINE):
            assert re.fullmatch(r'"\$\{[A-Z_]+\}"|"FILE"|"visit"', value), (key, value)
