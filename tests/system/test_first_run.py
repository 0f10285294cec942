"""`make run`: the example works, works again in the same place, and says what prevents it."""

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from btfeed.posts import files as postfile
from tests.support import posts
from tests.support.harness import until

ROOT = Path(__file__).parents[2]
PORTS = (4321, 4322)
ALONE = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""Runs a command in a network namespace, where all ports are free."""


@pytest.fixture(scope="module")
def alone() -> list[str]:
    """ALONE if the system allows it. Otherwise an empty list, once the ports are free."""
    if shutil.which("unshare") and shutil.which("ip"):
        tried = subprocess.run([*ALONE, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            return ALONE
    until(lambda: all(map(is_free, PORTS)), f"ports {PORTS} are free")
    return []


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def first_run(directory: Path, *prefix: str) -> "subprocess.CompletedProcess[str]":
    command = [*prefix, sys.executable, str(ROOT / "examples" / "first_run.py")]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_it_runs_twice_in_the_same_place(alone: list[str], tmp_path: Path) -> None:
    """It sends posts, shows records, the status and what became of the visits, and stops the server. A second run continues
    with the same journal."""
    number = 0
    for times in (1, 2):
        result = first_run(tmp_path, *alone)
        assert (result.returncode, result.stderr) == (0, "")
        posted = re.search(r"^\d+ posts accepted \((\d+) occurrences\)", result.stdout, re.MULTILINE)
        assert posted
        now = int(posted[1])
        number += now
        assert '"event.category": "visit"' in result.stdout
        assert '"event.type":"Order received"' in result.stdout
        assert f"sink files: running, {now} records delivered, 0 posts behind, 0 dead letters" in result.stdout
        (file,) = (tmp_path / "btfeed-data" / "files").iterdir()
        assert str(file.relative_to(tmp_path)) in result.stdout
        assert len(file.read_text().splitlines()) == number
        assert f"\nstarted {100 * times}   converted " in result.stdout
        assert "not in the definition" not in result.stdout
        page = tmp_path / "btfeed-data" / "web-shop.html"
        assert page.as_uri() in result.stdout
        assert page.read_text().startswith("<!doctype html>")


def test_it_says_which_port_is_taken(tmp_path: Path) -> None:
    """In one line, with exit status 1, and it leaves no files behind."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", 4321))
            other.listen()
        except OSError:
            pass  # another program uses it, which serves the test just as well
        result = first_run(tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "port 4321 is in use, perhaps by another btfeed: stop the program that uses it\n"
    assert list(tmp_path.iterdir()) == []


EXAMPLES = {f"{name}.bin": [make()] for name, make in posts.SAMPLES.items()} | {
    "mixed.btposts": [posts.mixed(50, seed=seed) for seed in range(10)]
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_sample_posts_are_those_of_the_tests(name: str) -> None:
    """Byte for byte, so that the examples are what the tests use."""
    assert list(postfile.read(ROOT / "examples" / "posts" / name)) == EXAMPLES[name]


def test_there_are_no_other_sample_posts() -> None:
    """So the test above compares every file of the folder."""
    assert {path.name for path in (ROOT / "examples" / "posts").iterdir()} == set(EXAMPLES)
