"""The commands on pages of the documentation can be run as they stand."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from tempfile import TemporaryFile

import pytest

from btfeed.posts import files as postfile
from tests.commands.test_main import invoke
from tests.support import posts
from tests.support.harness import Server
from tests.support.ports import free_port

DOCS = Path(__file__).parent.parent / "docs"
TIMEOUT = 120
"""Seconds for a block."""
PORTS = ("4321", "4322", "4330", "4331")
"""Those that pages use; others take their place."""


def blocks(page: str, language: str) -> list[str]:
    """The content of the fenced blocks of a page."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [content for name, content in fences if name == language]


def with_free_ports(script: str, **known: int) -> str:
    """The same commands, with other ports: those that are known, by the port on the page, and free ones."""
    ports = {name: str(free_port()) for name in PORTS}
    ports |= {name.removeprefix("port_"): str(port) for name, port in known.items()}
    return re.sub(rf"(?<=:)(?:{'|'.join(PORTS)})\b", lambda match: ports[match[0]], script)


def run(script: str, directory: Path) -> str:
    """What the commands print; the first that fails ends them, and fails the test. What they leave running is killed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command, environment = ["bash", "-euo", "pipefail", "-c", script], os.environ | {"PATH": path}
    with TemporaryFile("w+") as printed, TemporaryFile("w+") as said:
        shell = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=printed, stderr=said, start_new_session=True
        )
        try:
            status = shell.wait(TIMEOUT)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, SIGKILL)
        for file in (printed, said):
            file.seek(0)
        output = printed.read()
        assert status == 0, script + output + said.read()
    return output


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> Path:
    """A folder with what pages speak of: posts, in a file and in a folder, and the journal of a server that has them."""
    (tmp_path / "posts").mkdir()
    with (tmp_path / "posts.btposts").open("wb") as file:
        for number, make in enumerate(posts.SAMPLES.values()):
            postfile.write_delimited(file, make())
            (tmp_path / "posts" / f"{number}.bin").write_bytes(make())
            assert server.post(make())[0] == 200
    (tmp_path / "btfeed-data").symlink_to(server.directory / "journal")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", ["replay", "generate", "coming-from", "privacy"])
def test_examples_run(page: str, server: Server, folder: Path) -> None:
    """Each block of the page, as it stands, one after the other in one folder; the server's port is filled in."""
    for block in blocks(page, "sh"):
        run(with_free_ports(block, port_4321=server.port), folder)


@pytest.mark.slow
def test_the_first_five_minutes(tmp_path: Path) -> None:
    """All commands of the page in one shell, in an empty directory: the posts arrive, and can be sent again."""
    script = with_free_ports("".join(blocks("first-steps", "sh")))
    printed = run(script, tmp_path)
    assert printed.count('"event.kind":"BIZ_EVENT"') == 5, "two lines of the file, three of the journal"
    accepted = re.findall(r"^(\d+) posts accepted", printed, re.MULTILINE)
    assert len(accepted) == 2, "generated, and sent again"
    assert len(set(accepted)) == 1
    assert '"stopped"' in (tmp_path / "serve.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_questions_to_flows_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands of the page, one after the other, on fewer flows; those on flows in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("btfeed.telemetry.logs.configure", lambda: None)
    script = "".join(blocks("flow", "sh"))
    assert "--seed 1 " in script
    for line in script.replace("--seed 1 ", "--seed 1 --rate 0.001 ").splitlines():
        name, *arguments = shlex.split(line)
        if "generate" in arguments:
            run(line, tmp_path)
            continue
        result = invoke(*arguments)
        assert (name, result.exit_code) == ("btfeed", 0), line + result.output
        if "--last" in arguments and not {"--out", "--format"} & set(arguments):
            assert result.stdout.startswith("Loan application   2026-03-"), line
    assert (tmp_path / "loans.html").stat().st_size > 10_000
    assert (tmp_path / "loans.csv.d" / "steps.csv").exists()


def test_privacy_shows_what_leaves(folder: Path) -> None:
    """The values on the page are those that the commands print, and the hash of a name is the one in the record."""
    shown = blocks("privacy", "text")
    records, hashed = blocks("privacy", "sh")
    assert run(records, folder) == "".join(shown)
    assert f'"{run(hashed, folder).strip()}"' in shown[0]
