"""btfeed records: the dry run of templates, privacy and filters, over files and over a journal."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from btfeed.posts import files as postfile
from tests.commands.test_main import EXAMPLES, MALFORMED, invoke, run
from tests.support.harness import Server
from tests.support.posts import mixed, sample_purepath, sample_visit

SINKS = """
[sinks.archive]
type = "file"
[sinks.visits]
type = "kafka"
bootstrap_servers = "nowhere.example:9092"
topic = "bt.{category}.{application}"
filter = { category = ["visit"] }
security = { tls = true, sasl = "PLAIN", username = "u", password = "${NOT_SET}" }
[sinks.search]
type = "elasticsearch"
hosts = ["https://nowhere.example:9200"]
index = "bt-{category}-{date}"
"""


@pytest.fixture(autouse=True)
def _no_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configured logs are cached by the modules of sinks, which would keep them for the tests that follow."""
    monkeypatch.setattr("btfeed.telemetry.logs.configure", lambda: None)


def records(directory: Path, *arguments: object, config: str = SINKS) -> Result:
    (directory / "btfeed.toml").write_text(config)
    return invoke("records", "-c", directory / "btfeed.toml", *arguments)


def shown(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    """A PurePath and a visit."""
    folder = tmp_path / "posts"
    folder.mkdir()
    (folder / "1.bin").write_bytes(sample_purepath())
    (folder / "2.bin").write_bytes(sample_visit())
    return folder


def test_each_sink_gets_what_its_filter_lets_through(tmp_path: Path, posts: Path) -> None:
    """A line for each record and sink, with what the sink adds. Passwords and servers are not needed."""
    result = records(tmp_path, posts)
    assert result.exit_code == 0, result.stderr
    found = shown(result)
    assert [(line["sink"], line["record"]["event.category"]) for line in found] == [
        ("archive", "purepath"), ("search", "purepath"), ("archive", "visit"), ("visits", "visit"), ("search", "visit"),
    ]  # fmt: skip
    assert found[1]["index"].startswith("bt-purepath-2")
    assert found[3]["topic"].startswith("bt.visit.")
    assert found[3]["key"]
    assert result.stderr == "1 record not for sink visits: its filter excludes them\n"


def test_some_sinks_and_some_lines(tmp_path: Path, posts: Path) -> None:
    """In the order of the options; lines end at the limit."""
    assert [line["sink"] for line in shown(records(tmp_path, posts, "--sink", "visits"))] == ["visits"]
    both = records(tmp_path, posts, "--sink", "search", "--sink", "archive", "--limit", 3)
    assert [line["sink"] for line in shown(both)] == ["search", "archive", "search"]


def test_privacy_and_templates_show(tmp_path: Path, posts: Path) -> None:
    """In the record and in what is made of it. Without its key, nothing is shown: hashes would be others."""
    privacy = '[record.privacy]\nhash = ["appmon.application"]\ndrop = ["appmon.server"]\nkey = "%s"\n'
    first = shown(records(tmp_path, posts, "--sink", "visits", config=SINKS + privacy % "k"))[0]
    assert len(first["record"]["appmon.application"]) == 32
    assert "appmon.server" not in first["record"]
    assert first["topic"] == f"bt.visit.{first['record']['appmon.application']}"
    missing = records(tmp_path, posts, config=SINKS + privacy % "${NO_KEY}")
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert missing.stderr == "record.privacy.key: environment variable NO_KEY is not set\n"


def test_dead_letters_are_told_with_their_reason(tmp_path: Path, posts: Path) -> None:
    """Records that validation rejects, and those that are too old for a sink. Posts that can't be mapped make it fail."""
    strict = '[validation]\nunexpected = "dead-letter"\n[sinks.archive]\ntype = "file"\ndelivery = { max_age = "1h" }\n'
    result = records(tmp_path, posts, config=strict)
    assert (result.exit_code, len(shown(result))) == (0, 1)
    assert "1 record would become dead letters: unexpected visitId" in result.stderr
    assert "1 record for sink archive are older than its max_age, and would become dead letters" in result.stderr
    (posts / "3.bin").write_bytes(MALFORMED)
    result = records(tmp_path, posts, config=strict)
    assert (result.exit_code, len(shown(result))) == (1, 1)
    why = "not a BusinessTransactions message: it is cut off, or not protobuf"
    assert f"1 post left out: {why} (post 1 of {posts / '3.bin'})\n" in result.stderr


def test_posts_that_can_not_be_mapped_are_named(tmp_path: Path, posts: Path) -> None:
    """By file, and their number in it. The first five for each reason."""
    with closing(postfile.Writer(posts / "4.btposts")) as writer:
        for body in (sample_visit(), *[MALFORMED] * 7):
            writer.write(body)
    result = records(tmp_path, posts)
    named = ", ".join(f"post {number} of {posts / '4.btposts'}" for number in range(2, 7))
    assert f"({named}, 2 more)" in result.stderr
    both = records(tmp_path, posts, "--journal")
    assert both.exit_code == 2
    assert "name files or give --journal, not both" in both.stderr


def test_a_running_servers_journal_is_shown(tmp_path: Path) -> None:
    """What is shown is what the file sink writes, and the server is not disturbed."""
    with Server(tmp_path) as server:
        for seed in range(3):
            assert server.post(mixed(20, seed)) == (200, "")
        written = server.delivered(60)
        result = run("records", "--journal", "-c", str(server.config))
        assert (result.returncode, result.stderr) == (0, "")
        assert [json.loads(line)["record"] for line in result.stdout.splitlines()] == written
        assert server.post(mixed(20, 9)) == (200, "")
        assert len(server.delivered(80)) == 80
    assert len(shown(invoke("records", "--journal", "-c", server.config, "--limit", 7))) == 7


def test_wrong_use_is_said(tmp_path: Path, posts: Path) -> None:
    """No posts, two sources, an unknown sink or file, no sinks, and a secret without which a sink can't be read."""
    assert "name files with posts, or give --journal" in records(tmp_path).stderr
    assert records(tmp_path, posts, "--journal").exit_code == 2
    assert "no sink nope is configured: the sinks are archive" in records(tmp_path, posts, "--sink", "nope").stderr
    assert "no sinks are configured" in records(tmp_path, posts, config="").stderr
    missing = records(tmp_path, tmp_path / "missing.bin")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "no journal in" in records(tmp_path, "--journal", config=SINKS + f'[journal]\ndirectory = "{tmp_path}"\n').stderr
    assert records(tmp_path, EXAMPLES, "--sink", "archive").exit_code == 0
