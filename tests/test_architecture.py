"""The shape of the project: imports go one way, files are short, tests mirror the packages and say what they show."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import btfeed

ROOT = Path(__file__).parent.parent
PYTHON = sorted(path for top in ("btfeed", "sinks", "tests", "benchmarks", "deploy") for path in (ROOT / top).rglob("*.py"))
WRITTEN = [path for path in PYTHON if path.name != "bt_pb2.py"]
RUST = [path for path in sorted((ROOT / "native").rglob("*.rs")) if "target" not in path.parts]
TESTS = [path for path in PYTHON if path.name.startswith("test_")]
LINES_OF_A_MODULE = 400
LINES_OF_A_FUNCTION = 60
OTHER_FOLDERS_OF_TESTS = {"benchmarks", "deploy", "java", "servers", "sinks", "support", "system", "system/cluster"}
"""Folders of tests/ that are not named after a package of btfeed."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def packages(directory: Path) -> set[str]:
    """The folders that hold a package, and, below them, those that hold packages."""
    return {path.parent.relative_to(directory).as_posix() for path in directory.rglob("__init__.py")} - {"."}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions of a module, also those in classes and functions."""
    inside: list[ast.AST] = [parsed(path)]
    while inside:
        for node in ast.iter_child_nodes(inside.pop()):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node
            if isinstance(node, (ast.stmt, ast.ExceptHandler, ast.match_case)):  # no expression holds a function
                inside.append(node)


@pytest.mark.slow
def test_imports_go_one_way() -> None:
    """Every contract in pyproject.toml is kept."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_package_is_in_the_reading_order() -> None:
    """The docstring of btfeed names each package and module beside it, as a word."""
    words = set(re.findall(r"\w+", btfeed.__doc__ or ""))
    names = {path.stem for path in (ROOT / "btfeed").glob("*.py")} - {"__init__"} | {
        path.parent.name for path in (ROOT / "btfeed").glob("*/__init__.py")
    }
    assert names - words == set()


def test_tests_mirror_the_packages() -> None:
    """Each folder of tests is named after what it tests: a package of btfeed or sinks, or one of a few others."""
    known = packages(ROOT / "btfeed") | {f"sinks/{name}" for name in packages(ROOT / "sinks")} | OTHER_FOLDERS_OF_TESTS
    known |= {f"sinks/{path.stem}" for path in (ROOT / "sinks").glob("[a-z]*.py")} | {"sinks/drivers"}
    assert packages(ROOT / "tests") - known == set()


def test_no_module_is_long() -> None:
    """At most 400 lines."""
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in WRITTEN + RUST}
    assert {path: lines for path, lines in lengths.items() if lines > LINES_OF_A_MODULE} == {}


def test_no_function_is_long() -> None:
    """At most 60 lines, decorators and attributes not counted."""
    lengths = {
        f"{relative(path)}::{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in WRITTEN
        for function in functions(path)
    } | dict(rust_functions())
    assert len(lengths) > len(WRITTEN + RUST)
    assert {name: lines for name, lines in lengths.items() if lines > LINES_OF_A_FUNCTION} == {}


def rust_functions() -> Iterator[tuple[str, int]]:
    """Each with its length. rustfmt ends a function with a brace below the first letter of its head."""
    for path in RUST:
        text = path.read_text(encoding="utf-8")
        for found in re.finditer(r"^( *)(?:[a-z()]+ )*fn (\w+).*?^\1}", text, re.DOTALL | re.MULTILINE):
            yield f"{relative(path)}::{found[2]}", found[0].count("\n") + 1


def test_every_test_says_what_it_shows() -> None:
    """In a docstring."""
    tests = [(path, function) for path in TESTS for function in functions(path) if function.name.startswith("test_")]
    assert [f"{relative(path)}::{test.name}" for path, test in tests if not ast.get_docstring(test)] == []


def test_no_test_is_defined_twice() -> None:
    """The second one would silently replace the first."""
    for path in TESTS:
        names = [node.name for node in parsed(path).body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        assert len(names) == len(set(names)), relative(path)
