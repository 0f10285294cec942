"""Sink types are found in modules, in packages, and in other Python packages by their entry points."""

import sys
from pathlib import Path

import pytest

import sinks
from sinks.base import SinkType
from sinks.settings import Settings


def test_everything_that_offers_a_sink_is_a_type() -> None:
    """A module or a package, but not the modules that sinks are built on."""
    assert {"bizevents", "elasticsearch", "file", "kafka"} <= set(sinks.types())


@pytest.mark.parametrize("name", sinks.types())
def test_a_type_is_loaded_by_its_name(name: str) -> None:
    """As a SinkType with settings."""
    assert isinstance(sinks.load(name), SinkType)
    assert issubclass(sinks.load(name).settings, Settings)


def test_a_module_that_cannot_be_imported_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as a type, and loading it says what is wrong with it."""
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    before = sinks.types()
    monkeypatch.setattr(sinks, "__path__", [*sinks.__path__, str(tmp_path)])
    assert sinks.types() == sorted([*before, "broken"])
    with pytest.raises(ImportError, match="no_such_module"):
        sinks.load("broken")


@pytest.mark.parametrize("name", ["", "base", "shared", "shared.http", "_messages", "kafka.sink", "no_such", "os", 7, None])
def test_anything_else_is_not(name: str) -> None:
    """Neither modules without SINK nor names from outside of the package. The name may be a secret and is not shown."""
    with pytest.raises(LookupError, match=f"^unknown sink type; known are {', '.join(sinks.types())}$"):
        sinks.load(name)


def test_another_package_offers_a_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an entry point in the group btfeed.sinks; it is imported when it is used."""
    (tmp_path / "other.py").write_text(
        "from sinks.base import SinkType\nfrom sinks.settings import Settings\nSINK = SinkType(Settings, lambda *_: None)\n"
    )
    metadata = tmp_path / "other-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[btfeed.sinks]\nelsewhere = other:SINK\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "elsewhere" in sinks.types()
    assert "other" not in sys.modules
    assert sinks.load("elsewhere") is sys.modules["other"].SINK
    monkeypatch.delitem(sys.modules, "other")
