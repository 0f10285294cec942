"""What a command imports: only what it needs, so that it starts fast."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.test_main import EXAMPLES
from tests.support.harness import DEADLINE

pytestmark = pytest.mark.slow

HTTP = {"aiohttp"}
SERVERS = {"btfeed.admin.server", "btfeed.app.serve", "btfeed.http.server", "btfeed.receiving.receiver"}
SINKS = {"aiokafka", "elasticsearch", "sinks.bizevents", "sinks.elasticsearch", "sinks.file", "sinks.kafka"}
JOURNAL = {"apsw"}
SLOW = HTTP | SERVERS | SINKS | JOURNAL | {"btfeed.config", "duckdb", "uvloop"}
PROGRAM = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
from btfeed.commands.main import cli
cli(sys.argv[1:], prog_name="btfeed")
"""


def imported(directory: Path, *arguments: object) -> set[str]:
    """The modules that the command has imported when it ends."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    run = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=DEADLINE, check=True)
    return set(json.loads(run.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["serve", "--help"], ["inspect", EXAMPLES]])
def test_help_and_inspect_import_no_server_client_or_sink(arguments: list[object], tmp_path: Path) -> None:
    """Nor the configuration, or the event loop."""
    assert imported(tmp_path, *arguments) & SLOW == set()


def test_posts_are_written_to_a_file_without_an_http_client(tmp_path: Path) -> None:
    """By generate and by replay. They need no configuration either."""
    slow = SLOW - {"uvloop"}
    assert imported(tmp_path, "generate", "web-shop", "--flows", 1, "--out", "a.btposts") & slow == set()
    assert imported(tmp_path, "replay", "a.btposts", "--out", "b.btposts") & slow == set()


def test_a_check_imports_only_the_sinks_that_are_configured(tmp_path: Path) -> None:
    """The file sink needs no HTTP client."""
    free = 'listen = "127.0.0.1:0"\n'
    (tmp_path / "btfeed.toml").write_text(f'[receiver]\n{free}[admin]\n{free}[sinks.files]\ntype = "file"\n')
    assert imported(tmp_path, "check", "-c", "btfeed.toml") & (HTTP | SERVERS | SINKS) == {"sinks.file"}


def test_sending_imports_the_http_client(tmp_path: Path) -> None:
    """So the tests above look for the right names."""
    command = ["-c", PROGRAM, "generate", "web-shop", "http://127.0.0.1:1/", "--flows", "1"]
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert {"aiohttp", "uvloop"} <= set(json.loads(run.stderr.splitlines()[-1]))
