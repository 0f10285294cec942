"""`btfeed dead-letters`, on the journal of a running server and of a stopped one."""

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from btfeed.commands import dead_letters as dead_letters_command
from btfeed.commands.main import cli
from btfeed.journal.base import DeadLetter
from btfeed.journal.sqlite.database import JournalDatabase
from btfeed.posts import files as postfile
from btfeed.posts import post
from tests.journal.journals import dead_letter
from tests.support import posts
from tests.support.harness import Server, until

MALFORMED = b"\x0a\xff\xff\xff"
STRICT = '[validation]\nunexpected = "dead-letter"\n'


class Case:
    """A server that keeps records that break the field table as dead letters."""

    def __init__(self, directory: Path) -> None:
        self.sink = f'[sinks.files]\ntype = "file"\ndirectory = "{directory / "files"}"\n'
        self.server = Server(directory, STRICT + self.sink)
        self.journal = directory / "journal"

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
    assert case.listed()[0]["reason"].startswith("malformed: not a BusinessTransactions message")


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


def _stopped(directory: Path, *kept: DeadLetter) -> Case:
    """A journal of a stopped server that has these dead letters."""
    case = Case(directory)
    with case.server:
        pass
    with closing(JournalDatabase.open(case.journal)) as database:
        database.dead_letters.insert(kept)
    return case


def test_export_goes_on_behind_a_damaged_dead_letter(tmp_path: Path) -> None:
    """It is exported as far as it can be read, and named on stderr."""
    case = _stopped(tmp_path, dead_letter(1))
    with closing(JournalDatabase.open(case.journal)) as database:
        database.db.execute("UPDATE dead_letter_blocks SET content = x'00'")
        database.dead_letters.insert([replace(dead_letter(2), body=b'{"n":'), dead_letter(3)])
    result = case.run("export", "--delete")
    assert result.exit_code == 1
    first, second, third = map(json.loads, result.stdout.splitlines())
    assert (first["event_id"], first["reason"], first["body"]) == ("id-1", "damaged in the journal", "")
    assert base64.b64decode(second["body"]) == b'{"n":'
    assert third["record"]["n"] == 3
    assert result.stderr.splitlines() == [
        "dead letter 1 is damaged", "dead letter 2 is damaged",
        "2 dead letters damaged in the journal, exported without the record",
    ]  # fmt: skip
    assert case.listed() == []


@pytest.mark.parametrize("command", ["list", "export", "retry"])
def test_a_sink_that_nothing_is_known_of_is_an_error(tmp_path: Path, command: str) -> None:
    """A slip of the pen. A sink that is gone from the configuration may have left dead letters."""
    case = _stopped(tmp_path, replace(dead_letter(1), sink="gone"))
    result = case.run(command, "--sink", "nosuch")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("no sink 'nosuch' is configured, and no dead letter is its: the sinks are ")
    assert "'gone'" not in case.run(command, "--sink", "gone").stderr


def test_a_terminal_is_not_controlled_from_elsewhere(tmp_path: Path) -> None:
    """Reasons and records are printed without control characters, and without what is no character. As JSON they are what
    they were."""
    reason = "gone\x1b[2J\x9b31m\u202e\x07"
    body = json.dumps({"timestamp": "x", "a": "\x9b\x7fü \ud800"}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    escaped = body.replace("\ud800".encode("utf-8", "surrogatepass"), b"\\ud800")
    case = _stopped(tmp_path, replace(dead_letter(1, reason=reason), body=escaped))
    for arguments in (["list"], ["list", "--json"], ["export"]):
        text = case.run(*arguments).stdout
        assert all(character == "\n" or character.isprintable() for character in text)
        assert "gone\\u001b[2J" in text
    assert json.loads(case.run("list", "--json").stdout)["reason"] == reason
    assert json.loads(case.run("export").stdout)["record"]["a"] == "\x9b\x7fü \ud800"


def test_export_deletes_only_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In groups. If the output fails, what is not on disk stays."""
    case = _stopped(tmp_path, *(dead_letter(number) for number in range(25)))
    monkeypatch.setattr("btfeed.commands.dead_letters.EXPORTED_AT_A_TIME", 10)
    written = 0
    durable = dead_letters_command._make_durable

    def fails_later(file: Any) -> None:
        nonlocal written
        written += 1
        if written > 2:
            raise OSError("no space left")
        durable(file)

    monkeypatch.setattr("btfeed.commands.dead_letters._make_durable", fails_later)
    assert case.run("export", "--delete").exit_code == 1
    assert [each["event_id"] for each in case.listed()] == [f"id-{number}" for number in range(20, 25)]


def test_list_names_what_a_dead_letter_waits_for(tmp_path: Path) -> None:
    """An operator needs not retry it."""
    case = _stopped(tmp_path, replace(dead_letter(1), destination="topic orders", cause="waiting"))
    assert case.run("list").stdout.rstrip().endswith("(waits for topic orders)")
    (listed,) = case.listed()
    assert (listed["cause"], listed["destination"]) == ("waiting", "topic orders")
