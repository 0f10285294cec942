"""`btfeed dead-letters`, on the journal of a running server and of a stopped one."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from btfeed.commands.main import cli
from btfeed.posts import files as postfile
from btfeed.posts import post
from tests.support import posts
from tests.support.harness import Server, until

MALFORMED = b"\x0a\xff\xff\xff"
STRICT = '[validation]\nunexpected = "dead-letter"\n'


class Case:
    """A server that keeps records that break the field table as dead letters."""

    def __init__(self, directory: Path) -> None:
        self.sink = f'[sinks.files]\ntype = "file"\ndirectory = "{directory / "files"}"\n'
        self.server = Server(directory, STRICT + self.sink)

    def run(self, *arguments: object) -> Result:
        return CliRunner().invoke(
            cli, ["dead-letters", *map(str, arguments), "-c", str(self.server.config)], env={"COLUMNS": "200"}
        )

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        result = self.run("list", "--json", *arguments)
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    def gather(self) -> None:
        """A malformed post, and one whose PurePath has a visitId."""
        assert self.server.post(MALFORMED)[0] == 400
        assert self.server.post(posts.sample_purepath())[0] == 200
        until(lambda: len(self.listed()) == 2, "both are dead letters")


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    with case.server:
        case.gather()
        yield case


def test_list_says_when_what_and_why(case: Case) -> None:
    """One line each, the oldest first, with a minus if no sink was asked."""
    refused, invalid = case.run("list").stdout.splitlines()
    event_id = post.event_id_prefix(post.digest(posts.sample_purepath())) + "0"
    assert refused.split("  ")[0] == "1"
    assert refused.split("  ")[2:4] == ["-", "post of 4 bytes"]
    assert refused.split("  ")[4].startswith("malformed: not a BusinessTransactions message")
    assert invalid.split("  ")[2:] == ["-", event_id, "unexpected visitId"]


def test_export_gives_records_as_they_are_and_posts_in_base64(case: Case, tmp_path: Path) -> None:
    """One JSON object per line. --posts also writes the bodies as a file that inspect and replay can read."""
    result = case.run("export", "--posts", tmp_path / "refused.btposts")
    refused, invalid = map(json.loads, result.stdout.splitlines())
    assert base64.b64decode(refused["body"]) == MALFORMED
    assert invalid["record"]["appmon.visit.id"] == "1234"
    assert list(postfile.read(tmp_path / "refused.btposts")) == [MALFORMED]
    assert len(case.listed()) == 2


def test_export_deletes_what_it_exported_when_asked_to(case: Case) -> None:
    """And nothing else."""
    assert len(case.run("export", "--delete", "--sink", "files").stdout.splitlines()) == 0
    assert len(case.listed()) == 2
    assert len(case.run("export", "--delete").stdout.splitlines()) == 2
    assert case.listed() == []


def test_export_says_where_it_cannot_write(case: Case, tmp_path: Path) -> None:
    """And deletes nothing."""
    result = case.run("export", "--delete", "--posts", tmp_path / "nowhere" / "x.btposts")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{tmp_path / 'nowhere' / 'x.btposts'}: No such file or directory\n"
    assert len(case.listed()) == 2


def test_retry_is_taken_up_by_the_running_server(case: Case) -> None:
    """The record that validation rejected is delivered. The malformed post stays, with one more try."""
    result = case.run("retry")
    assert (result.exit_code, result.stdout) == (0, "2 marked for retry\n")
    (record,) = case.server.delivered(1)
    assert record["appmon.visit.id"] == "1234"
    until(lambda: [dead_letter["tries"] for dead_letter in case.listed()] == [2], "only the post is left, tried twice")
    assert case.listed()[0]["reason"].startswith("not a BusinessTransactions message")


def test_retry_is_taken_up_by_the_next_server(case: Case) -> None:
    """Marks made while no server runs are kept."""
    case.server.stop()
    assert case.run("retry", "2").stdout == "1 marked for retry\n"
    assert case.server.records() == []
    with case.server:
        assert len(case.server.delivered(1)) == 1
        until(lambda: len(case.listed()) == 1, "the delivered one is gone")
    assert case.listed()[0]["tries"] == 1


def test_unknown_ids_are_reported(case: Case) -> None:
    """With exit 1, and nothing is marked."""
    result = case.run("retry", "1", "7", "9")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "no dead letter 7, 9\n")


def test_retry_by_sink_and_id_takes_what_both_name(case: Case) -> None:
    """An id of another sink's dead letter is not found."""
    result = case.run("retry", "1", "--sink", "files")
    assert (result.exit_code, result.stderr) == (1, "no dead letter 1\n")
    assert case.run("retry", "1", "--sink", "").stdout == "1 marked for retry\n"


def test_retry_says_what_cannot_be_tried_again(case: Case) -> None:
    """If no sink is configured, a record stays, with exit 1."""
    case.server.stop()
    case.server.config.write_text(case.server.config.read_text().replace(case.sink, ""))
    result = case.run("retry")
    assert (result.exit_code, result.stdout) == (1, "1 marked for retry\n")
    assert result.stderr.startswith("1 can't be retried: ")
    assert len(case.listed()) == 2


def test_without_a_journal_it_says_where_it_looked(tmp_path: Path) -> None:
    """And creates none."""
    config = tmp_path / "btfeed.toml"
    config.write_text(f'[journal]\ndirectory = "{tmp_path / "nowhere"}"\n')
    result = CliRunner().invoke(cli, ["dead-letters", "list", "-c", str(config)])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"no journal in {tmp_path / 'nowhere'}\n")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_is_not_a_journal_is_reported(tmp_path: Path) -> None:
    """The command does not recover it; the server does."""
    (tmp_path / "journal.db").write_bytes(b"no database" * 1000)
    config = tmp_path / "btfeed.toml"
    config.write_text(f'[journal]\ndirectory = "{tmp_path}"\n')
    result = CliRunner().invoke(cli, ["dead-letters", "list", "-c", str(config)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"can't use the journal in {tmp_path}: ")
