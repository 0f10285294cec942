"""Files that commands write: never one that is read, and none is changed by a start that fails."""

import gzip
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from btfeed.journal.sqlite.database import FILE
from btfeed.posts import files as postfile
from btfeed.traffic import profile
from tests.commands.test_main import MALFORMED, invoke
from tests.support import posts
from tests.support.harness import BTFEED, DEADLINE, Server, until
from tests.support.ports import free_port
from tests.traffic.test_replay_sources import BODIES, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with posts in a.btposts."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.btposts")
    return tmp_path


def run(*arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
    """The command as a process of its own, for redirections."""
    command = [*BTFEED, *map(str, arguments)]
    return subprocess.run(command, text=True, timeout=DEADLINE, check=False, **options)  # type: ignore[call-overload, no-any-return]


def same_name(folder: Path) -> str:
    return "a.btposts"


def other_spelling(folder: Path) -> str:
    (folder / "inside").mkdir()
    return "inside/../a.btposts"


def symlink(folder: Path) -> str:
    (folder / "link.btposts").symlink_to("a.btposts")
    return "link.btposts"


def hard_link(folder: Path) -> str:
    (folder / "link.btposts").hardlink_to("a.btposts")
    return "link.btposts"


@pytest.mark.parametrize("option", ["--out", "--rejects"])
@pytest.mark.parametrize("named", [same_name, other_spelling, symlink, hard_link])
@pytest.mark.parametrize("source", ["a.btposts", "."])
def test_an_output_that_is_a_source_is_wrong_usage(
    source: str, named: Callable[[Path], str], option: str, folder: Path
) -> None:
    """Whatever it is called. The source stays as it is."""
    before = (folder / "a.btposts").read_bytes()
    output = named(folder)
    to = [] if option == "--out" else ["--url", f"http://127.0.0.1:{free_port()}/"]
    result = invoke("replay", source, option, output, *to)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Invalid value for {option}: {output} is also read (" in " ".join(result.stderr.replace("│", "").split())
    assert (folder / "a.btposts").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
def test_an_output_that_is_standard_input_is_wrong_usage(source: str, folder: Path) -> None:
    """If that is a file."""
    before = (folder / "a.btposts").read_bytes()
    with (folder / "a.btposts").open("rb") as stdin:
        result = run("replay", source, "--out", "a.btposts", stdin=stdin, capture_output=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert "a.btposts is also read (standard input)" in result.stderr
    assert (folder / "a.btposts").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("out", ["-", "/dev/stdout", "b.btposts"])
def test_standard_output_that_is_a_source_is_wrong_usage(out: str, folder: Path) -> None:
    """With -, the source would grow for as long as it is read; else the summary would end up in it."""
    before = (folder / "a.btposts").read_bytes()
    with (folder / "a.btposts").open("ab") as stdout:
        result = run("replay", "a.btposts", "--out", out, stdout=stdout, stderr=subprocess.PIPE)
    assert result.returncode == 2
    assert (folder / "a.btposts").read_bytes() == before
    assert not (folder / "b.btposts").exists()


def test_two_outputs_that_are_one_file_are_wrong_usage(folder: Path) -> None:
    """Even if the file does not exist yet. It is not created."""
    for first, second in (("b.btposts", "./b.btposts"), ("b.btposts", folder / "b.btposts")):
        result = invoke("replay", "a.btposts", "--out", first, "--rejects", second)
        assert result.exit_code == 2
        assert "is also written by --out" in " ".join(result.stderr.replace("│", "").split())
    (folder / "b.btposts").symlink_to("c.btposts")
    assert invoke("replay", "a.btposts", "--out", "b.btposts", "--rejects", "c.btposts").exit_code == 2
    assert not (folder / "c.btposts").exists()


@pytest.mark.slow
def test_rejects_and_the_summary_do_not_share_a_file(folder: Path) -> None:
    """One would overwrite the other. A pipe takes both."""
    url = f"http://127.0.0.1:{free_port()}/"
    with (folder / "results").open("wb") as stdout:
        result = run("replay", "a.btposts", url, "--rejects", "/dev/stdout", stdout=stdout, stderr=subprocess.PIPE)
    assert (result.returncode, (folder / "results").read_bytes()) == (2, b"")
    assert "/dev/stdout is also standard output" in result.stderr
    piped = run("replay", "a.btposts", url, "--rejects", "/dev/stdout", capture_output=True)
    assert [json.loads(line)["status"] for line in piped.stdout.splitlines()[:3]] == [None] * 3
    assert piped.stdout.splitlines()[3].startswith("0 of 3 posts accepted")


def test_a_folder_can_be_replayed_into_a_new_file_inside_it(folder: Path) -> None:
    """What is written is not read. The next time, the file is a source."""
    for _ in range(2):
        result = invoke("replay", ".", "--out", "b.btposts", "--loop", 3)
        assert list(postfile.read(folder / "b.btposts")) == BODIES * 3
    assert result.exit_code == 2
    assert "b.btposts is also read (b.btposts)" in " ".join(result.stderr.replace("│", "").split())


def test_what_else_a_command_reads_is_not_written(folder: Path) -> None:
    """Profiles and certificates."""
    given = profile.shipped()["web-shop"]
    (folder / "mine.toml").write_text(given)
    (folder / "ca.pem").write_text(given)
    url = f"http://127.0.0.1:{free_port()}/"
    for arguments in (
        ["generate", "mine.toml", url, "--flows", 1, "--rejects", "mine.toml"],
        ["replay", "a.btposts", "--ca", "ca.pem", "--out", "b.btposts", "--rejects", "ca.pem"],
    ):
        result = invoke(*arguments)
        assert result.exit_code == 2, result.output
    assert (folder / "mine.toml").read_text() == (folder / "ca.pem").read_text() == given
    assert not (folder / "b.btposts").exists()


def test_a_journal_and_a_configuration_are_not_written(tmp_path: Path) -> None:
    """By a replay of the journal, and by an export of its dead letters."""
    with Server(tmp_path) as server:
        server.post(MALFORMED)
        server.post(posts.sample_visit())
    journal = tmp_path / "journal"
    database = journal / FILE
    (tmp_path / "journal.btposts").symlink_to(database)
    (tmp_path / "config.btposts").symlink_to(server.config)
    before = database.read_bytes(), server.config.read_bytes()
    for arguments in (
        ["replay", "--journal", journal, "--out", tmp_path / "journal.btposts"],
        ["dead-letters", "export", "-c", server.config, "--posts", tmp_path / "journal.btposts"],
        ["dead-letters", "export", "-c", server.config, "--posts", tmp_path / "config.btposts"],
    ):
        result = invoke(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert (database.read_bytes(), server.config.read_bytes()) == before


@pytest.mark.parametrize("arguments", [
    ["gone.btposts"], ["a.btposts", "gone.btposts"], ["no gzip.btposts.gz"], ["cut off.btposts"], ["--journal", "gone"],
])  # fmt: skip
@pytest.mark.parametrize("existing", [True, False])
def test_a_source_that_cannot_be_read_leaves_the_outputs_alone(arguments: list[str], existing: bool, folder: Path) -> None:
    """A file that is there keeps its content, and a new one is not created."""
    (folder / "no gzip.btposts.gz").write_bytes(b"nothing of the kind")
    (folder / "cut off.btposts").write_bytes(b"\x7fcut off")
    if existing:
        (folder / "b.btposts").write_bytes(b"precious")
        (folder / "r.ndjson").write_bytes(b"precious")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = invoke("replay", *arguments, "--out", "b.btposts", "--rejects", "r.ndjson")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_output_that_cannot_be_opened_leaves_the_others_alone(folder: Path) -> None:
    """A file that was there keeps its content, and one that was created is removed."""
    for name in ("b.btposts", "c.btposts"):
        (folder / "b.btposts").write_bytes(b"precious")
        result = invoke("replay", "a.btposts", "--out", name, "--rejects", "gone/r.ndjson")
        assert (result.exit_code, result.stderr) == (1, "gone/r.ndjson: No such file or directory\n")
    assert sorted(path.name for path in folder.iterdir()) == ["a.btposts", "b.btposts"]
    assert (folder / "b.btposts").read_bytes() == b"precious"


def test_an_output_that_is_there_is_replaced(folder: Path) -> None:
    """A longer one is cut."""
    (folder / "b.btposts").write_bytes(b"x" * 10_000)
    assert invoke("replay", "a.btposts", "--out", "b.btposts").exit_code == 0
    assert list(postfile.read(folder / "b.btposts")) == BODIES


def test_posts_pass_through_fifos(folder: Path) -> None:
    """From one into another."""
    for name in ("in.btposts", "out.btposts"):
        os.mkfifo(folder / name)
    passed: list[bytes] = []
    given = threading.Thread(target=lambda: (folder / "in.btposts").write_bytes((folder / "a.btposts").read_bytes()))
    taken = threading.Thread(target=lambda: passed.append((folder / "out.btposts").read_bytes()))
    given.start()
    taken.start()
    assert invoke("replay", "in.btposts", "--out", "out.btposts").exit_code == 0
    given.join(DEADLINE)
    taken.join(DEADLINE)
    assert passed == [(folder / "a.btposts").read_bytes()]


def test_terminals_and_null_devices_are_shared(folder: Path) -> None:
    """A device is not a file that is emptied: /dev/null may be input and output at the same time."""
    result = run("replay", "-", "--out", "-", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr[:7]) == (0, "0 posts")


def test_an_export_of_posts_is_gzipped_if_its_name_says_so(tmp_path: Path) -> None:
    """Other names are wrong, and - is, because the JSON goes to standard output."""
    with Server(tmp_path) as server:
        server.post(MALFORMED)
        export = ["dead-letters", "export", "-c", server.config, "--posts"]
        until(lambda: invoke(*export, tmp_path / "a.btposts.gz").stdout, "the post is a dead letter")
        assert gzip.decompress((tmp_path / "a.btposts.gz").read_bytes()) == b"\x04" + MALFORMED
        assert list(postfile.read(tmp_path / "a.btposts.gz")) == [MALFORMED]
        wrong = invoke(*export, tmp_path / "a.gz")
        assert (wrong.exit_code, wrong.stdout) == (2, "")
        assert "use a name that ends with .btposts or .btposts.gz" in " ".join(wrong.stderr.replace("│", "").split())
        assert invoke(*export, "-").exit_code == 2
        assert sorted(path.name for path in tmp_path.glob("a.*")) == ["a.btposts.gz"]


def test_a_file_of_a_folder_that_must_not_be_read_is_reported_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent: a folder of which a part is missing would look complete."""
    write(folder / "b.btposts")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "b.btposts")
    result = invoke("replay", ".", f"http://127.0.0.1:{free_port()}/")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "b.btposts: Permission denied\n")
