"""The shape of the project: imports go one way, and tests say what they show."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import btfeed

ROOT = Path(__file__).parent.parent
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_imports_go_one_way() -> None:
    """Every contract in pyproject.toml is kept."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_of_the_chain_is_in_the_reading_order() -> None:
    """Whoever opens the package is told where to begin."""
    order = btfeed.__doc__ or ""
    for name in ("app", "http", "receiving", "posts", "journal", "records", "delivery", "sinks", "config", "commands"):
        assert name in order


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_every_test_says_what_it_shows(path: Path) -> None:
    """In a docstring."""
    named = [function for function in functions(path) if function.name.startswith("test_")]
    assert [function.name for function in named if not ast.get_docstring(function)] == []


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_no_test_is_defined_twice(path: Path) -> None:
    """The second would silently take the first one's place."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert len(names) == len(set(names))
