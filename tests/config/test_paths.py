"""Relative paths start at the directory of the configuration file, whichever key they are in."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import create_model

import sinks
from btfeed import config
from btfeed.config import Sections
from btfeed.config.keys import kind, meanings
from btfeed.journal import create as journals
from sinks.settings import Settings

TABLES: dict[str, type[Settings]] = {"": Sections, **{f"type {name}": sinks.load(name).settings for name in sinks.types()}}


def models(model: type[Settings], path: str) -> Iterator[tuple[str, type[Settings]]]:
    """A table and those inside it."""
    yield path, model
    for name, hint in get_type_hints(model).items():
        for inner in (hint, *get_args(hint)):
            if isinstance(inner, type) and issubclass(inner, Settings):
                yield from models(inner, f"{path}.{name}")


ALL = [
    (path, model, key) for top, table in TABLES.items() for path, model in models(table, top) for key in model.model_fields
]


def is_path(model: type[Settings], key: str) -> bool:
    return "path" in kind(get_type_hints(model, include_extras=True)[key]).split()


def test_every_key_that_names_a_file_is_a_place() -> None:
    """By its name and its meaning. So a new sink can't have one that starts elsewhere."""
    named = {
        (path, key)
        for path, model, key in ALL
        if re.search("ca$|certificate|directory|file|folder", key)
        or re.match("PEM file|(the )?(file|directory)|where to (read|write)", meanings(model).get(key, ""))
    }
    assert named == {(path, key) for path, model, key in ALL if is_path(model, key)}
    assert len(named) > 10


@pytest.mark.parametrize(("model", "key"), [(model, key) for _, model, key in ALL if is_path(model, key)])
def test_a_relative_path_starts_at_the_directory_of_the_file(model: type[Settings], key: str, tmp_path: Path) -> None:
    """In every key of the configuration: if it is set, and by default. An absolute path stays as it is."""

    field = model.model_fields[key]
    hint: Any = get_type_hints(model, include_extras=True)[key]
    keys: dict[str, Any] = {key: (hint, ... if field.is_required() else field.default)}
    one = create_model("One", __base__=Settings, **keys)
    assert getattr(one.model_validate({key: "a/b"}, context={"base": tmp_path}), key) == str(tmp_path / "a" / "b")
    assert getattr(one.model_validate({key: "/a/b"}, context={"base": tmp_path}), key) == "/a/b"
    assert getattr(one.model_validate({key: "a/b"}), key) == "a/b"
    if isinstance(field.default, str):
        assert getattr(one.model_validate({}, context={"base": tmp_path}), key) == str(tmp_path / field.default)


def test_the_whole_configuration_is_relative_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory in which btfeed was started does not matter. Without a file, it does."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "btfeed.toml").write_text('[sinks.a]\ntype = "file"\ndirectory = "../a"\n')
    monkeypatch.chdir(tmp_path)
    found = config.load(Path("etc/btfeed.toml"), {})
    assert journals.directories(found.journal) == [tmp_path / "etc" / "btfeed-data"]
    assert found.sinks["a"].settings.model_dump()["directory"] == str(tmp_path / "etc" / "../a")
    default = config.load(None, {})
    assert journals.directories(default.journal) == [Path("btfeed-data")]
    assert default.sinks["files"].settings.model_dump()["directory"] == "btfeed-data/files"
