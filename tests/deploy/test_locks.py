"""The lock files: the same versions in each, all that btfeed needs, and nothing of the machine that wrote them."""

import re
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
RUNTIME, FLOW, BUILD, DEVELOPERS = (ROOT / f"requirements{kind}.txt" for kind in ("-runtime", "-flow", "-build", ""))
PINNED = re.compile(r"^([\w.-]+)==([^ \\;]+)", re.MULTILINE)


def locked(path: Path) -> dict[str, str]:
    """Name -> version."""
    return {canonicalize_name(name): version for name, version in PINNED.findall(path.read_text())}


def needed(names: list[str]) -> set[str]:
    """The names of packages that these need on any Linux, directly or not, by the metadata of what is installed here."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        extras = {"", *requirement.extras}
        found.add(name)
        for text in requires(name) or ():
            inner = Requirement(text)
            applies = inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras)
            if applies and canonicalize_name(inner.name) not in found:
                waiting.append(inner)
    return found


@pytest.mark.parametrize("lock", [RUNTIME, FLOW, BUILD])
def test_the_developers_have_the_same_versions(lock: Path) -> None:
    """So tests run with what is installed elsewhere."""
    assert locked(lock).items() <= locked(DEVELOPERS).items()


def test_the_run_time_lock_has_what_btfeed_needs_and_no_more() -> None:
    """No tool of developers, and nothing that pip would have to look for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    expected = needed(project["dependencies"])
    found = set(locked(RUNTIME))
    assert expected <= found
    if sys.version_info < (3, 12):  # with a later Python, some are not needed
        assert found == expected


def test_the_lock_for_flows_has_duckdb_besides() -> None:
    """`make run` shows flows. Packages of btfeed do without it: see docs/installing.md."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(locked(FLOW)) - set(locked(RUNTIME)) == needed(extras["flow"])
    assert locked(RUNTIME).items() <= locked(FLOW).items()


def test_the_build_lock_has_what_the_build_needs() -> None:
    """What `pip install --no-build-isolation` expects to find."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert set(locked(BUILD)) == needed(needs)


@pytest.mark.parametrize("lock", [RUNTIME, FLOW, BUILD, DEVELOPERS], ids=lambda path: path.name)
def test_every_version_has_hashes_and_no_address(lock: Path) -> None:
    """A lock works with any index, and what comes from it is what was locked."""
    text = lock.read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(locked(lock)) > 0
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert not re.search(r"--(index|extra-index|find-links|trusted)", text)
