"""docs/status.md describes every field of what the admin listener answers, and nothing else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from btfeed.telemetry.metrics import Metrics
from tests.support.harness import Server, until
from tests.support.posts import mixed, sample_purepath

PAGE = (Path(__file__).parents[2] / "docs" / "status.md").read_text(encoding="utf-8")
EXAMPLE = json.loads((Path(__file__).parent / "snapshot.json").read_text(encoding="utf-8"))
SECTIONS = {"status": "The snapshot", "history": "History", "records": "Newest records", "dead_letters": "Dead letters"}
OPAQUE = {"counts", "configuration", "records[].record"}
"""Objects that are described elsewhere."""


def documented(section: str) -> set[str]:
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\S+)` \|", text, re.MULTILINE))


def paths(value: Any, known: set[str], prefix: str = "") -> Iterator[str]:
    """The path of every field in `value`. A key that is documented by a name in capitals has that name."""
    if isinstance(value, dict) and prefix not in OPAQUE:
        start = f"{prefix}." if prefix else ""
        any_key = next((name for name in re.findall(r"[A-Z]+", " ".join(known)) if _has(known, f"{start}{name}")), None)
        for key, inner in value.items():
            path = f"{start}{key}" if f"{start}{key}" in known or any_key is None else f"{start}{any_key}"
            yield path
            yield from paths(inner, known, path)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, known, f"{prefix}[]")


def _has(known: set[str], path: str) -> bool:
    return any(each == path or each.startswith(f"{path}.") for each in known)


@pytest.mark.parametrize("name", SECTIONS)
def test_the_example_has_every_field_that_is_documented(name: str) -> None:
    """And no other one. Pages are tried with it."""
    known = documented(SECTIONS[name])
    assert len(known) > 5
    found = set(paths(EXAMPLE[name], known))
    assert found - {"sinks.NAME"} == known - {"sinks.NAME"}


def test_the_counts_are_metrics() -> None:
    """So the list of metrics says what each means."""
    assert EXAMPLE["status"]["counts"].keys() == Metrics().summary().keys()


def test_a_server_answers_with_what_is_documented(tmp_path: Path) -> None:
    """Every field of its answers is, and everything that is always there is in its answers."""
    files = f'[sinks.files]\ntype = "file"\ndirectory = "{tmp_path / "files"}"\n'
    with Server(tmp_path, f'[validation]\nunexpected = "dead-letter"\n{files}') as server:
        for body, code in ((sample_purepath(), 200), (mixed(60), 200), (b"no post", 400)):
            assert server.post(body)[0] == code
        until(lambda: len(server.status()["dead_letters"]) == 2, "kept")
        server.delivered(60)
        routes = {"status": "/status", "history": "/history", "records": "/records", "dead_letters": "/dead-letters"}
        for name, route in routes.items():
            known = documented(SECTIONS[name])
            answer = json.loads(server.get(route))
            assert set(paths(answer, known)) - {"sinks.NAME"} <= known
            assert answer.keys() == EXAMPLE[name].keys()
        status = server.status()
        assert status["sinks"]["files"].keys() == EXAMPLE["status"]["sinks"]["archive"].keys()
        assert status["configuration"]["receiver"]["path"] == "/"
