"""The command replay: what it sends, what it prints, and its exit status."""

import base64
import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest

from btfeed.posts import files as postfile
from tests.commands.test_main import EXAMPLES, MALFORMED, invoke
from tests.support import posts
from tests.support.harness import BTFEED, DEADLINE, Server
from tests.support.ports import free_port
from tests.traffic.test_replay_sources import BODIES, write

RATES = r"in \d+\.\d\d s: \d+ posts/s, \d+ occurrences/s\n"


def test_the_url_is_an_option_or_the_last_argument(server: Server) -> None:
    """The posts of a folder are sent in the order of their names; other files in it are ignored."""
    for arguments in ([EXAMPLES, server.url], ["--url", server.url, EXAMPLES]):
        result = invoke("replay", *arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        latency = r"latency: p50 \d+\.\d ms, p99 \d+\.\d ms\n"
        assert re.fullmatch(rf"13 posts accepted \(503 occurrences\) {RATES}{latency}", result.stdout)
    assert server.status()["counts"]["posts"] == 26


def test_credentials_are_sent_as_utf_8(tmp_path: Path) -> None:
    """The receiver compares the same bytes. Without credentials the post is refused, and the answer is printed."""
    with Server(tmp_path, receiver='basic_auth = { username = "appmon", password = "pässwörd:€" }') as server:
        refused = invoke("replay", EXAMPLES / "visit.bin", server.url)
        assert refused.exit_code == 1
        summary, _, reason = refused.stdout.splitlines()
        assert summary.startswith("0 of 1 posts accepted (0 occurrences) in ")
        assert reason.startswith("1 post refused: 401 Unauthorized")
        assert invoke("replay", EXAMPLES / "visit.bin", server.url, "--user", "appmon:pässwörd:€").exit_code == 0


def test_refused_posts_are_counted_by_answer(server: Server, tmp_path: Path) -> None:
    """On stdout, because they are results. The exit status is 1."""
    (tmp_path / "1.bin").write_bytes(MALFORMED)
    (tmp_path / "2.bin").write_bytes(posts.sample_visit())
    result = invoke("replay", tmp_path, server.url)
    assert result.exit_code == 1
    summary, _, reason = result.stdout.splitlines()
    assert summary.startswith("1 of 2 posts accepted (1 occurrence) in ")
    assert reason.startswith("1 post refused: 400 Bad Request: not a BusinessTransactions message")


def test_a_damaged_file_is_reported_and_the_others_are_sent(server: Server, tmp_path: Path) -> None:
    """The posts before the damage are sent as well. The exit status is 1."""
    with (tmp_path / "1.btposts").open("wb") as file:
        postfile.write_delimited(file, posts.sample_visit())
        file.write(b"\x7fcut off")
    (tmp_path / "2.bin").write_bytes(posts.sample_visit())
    result = invoke("replay", tmp_path, server.url)
    assert result.exit_code == 1
    assert result.stdout.startswith("2 posts accepted (2 occurrences) in ")
    assert re.fullmatch(r".*/1\.btposts: the post at byte \d+ is cut off.*\n", result.stderr)


def test_a_source_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    """It is reported before anything is sent."""
    result = invoke("replay", EXAMPLES, tmp_path / "gone.bin", f"http://127.0.0.1:{free_port()}/")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{tmp_path / 'gone.bin'}: No such file or directory\n"


@pytest.mark.parametrize("name", ["posts.txt", "empty"])
def test_a_source_without_posts_is_an_error(name: str, tmp_path: Path) -> None:
    """It is reported before anything is sent."""
    (tmp_path / "empty").mkdir()
    result = invoke("replay", EXAMPLES, tmp_path / name, f"http://127.0.0.1:{free_port()}/")
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(tmp_path / name) in result.stderr
    assert "btposts" in result.stderr


def test_without_a_server_all_posts_are_refused() -> None:
    """The reason is printed on stdout with the number of posts. The exit status is 1."""
    port = free_port()
    result = invoke("replay", EXAMPLES, f"http://127.0.0.1:{port}/")
    assert (result.exit_code, result.stderr) == (1, "")
    summary, reason = result.stdout.splitlines()
    assert summary.startswith("0 of 13 posts accepted (0 occurrences) in ")
    assert reason == f"13 posts refused: cannot connect to 127.0.0.1:{port}: Connection refused"


def test_rejects_are_written_with_their_answers(server: Server, tmp_path: Path) -> None:
    """Each is a JSON object on a line of its own, with the body in base64."""
    write(tmp_path / "a.btposts", [MALFORMED, BODIES[0]])
    result = invoke("replay", tmp_path / "a.btposts", server.url, "--rejects", tmp_path / "rejects.ndjson")
    assert result.exit_code == 1
    (rejected,) = map(json.loads, (tmp_path / "rejects.ndjson").read_text().splitlines())
    assert rejected["status"] == 400
    assert rejected["answer"].startswith("400 Bad Request: not a BusinessTransactions message")
    assert base64.b64decode(rejected["body"]) == MALFORMED


def test_the_summary_as_json(server: Server) -> None:
    """With latencies, and with the reasons of posts that were not accepted."""
    result = invoke("replay", EXAMPLES, server.url, "--json")
    summary = json.loads(result.stdout)
    assert (summary["posts"], summary["occurrences"], summary["refused"], summary["unknown"]) == (13, 503, 0, 0)
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    away = json.loads(invoke("replay", EXAMPLES, f"http://127.0.0.1:{free_port()}/", "--json").stdout)
    assert (away["posts"], away["refused"], away["latency_ms"]["p50"]) == (0, 13, None)
    assert list(away["answers"].values()) == [13]


@pytest.mark.parametrize("zipped", [False, True])
def test_posts_pass_from_stdin_to_stdout(zipped: bool, tmp_path: Path) -> None:
    """The summary goes to stderr, so that stdout has only posts."""
    data = write(tmp_path / "a.btposts").read_bytes()
    given = gzip.compress(data) if zipped else data
    passed = subprocess.run(
        [*BTFEED, "replay", "-", "--out", "-"], input=given, capture_output=True, timeout=DEADLINE, check=True
    )
    assert passed.stdout == data
    assert passed.stderr.startswith(b"3 posts written to stdout (12 occurrences) in ")


def test_stdin_can_be_replayed_in_a_loop(tmp_path: Path) -> None:
    """It is kept in a temporary file."""
    data = write(tmp_path / "a.btposts").read_bytes()
    command = [*BTFEED, "replay", "-", "--loop", "2", "--out", str(tmp_path / "b.btposts")]
    subprocess.run(command, input=data, capture_output=True, timeout=DEADLINE, check=True)
    assert list(postfile.read(tmp_path / "b.btposts")) == BODIES * 2


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "name files or folders with posts"),
        (["http://127.0.0.1/"], "name files or folders with posts"),
        (["http://127.0.0.1/", "y.bin"], "put the URL http://127.0.0.1/ last"),
        (["localhost:14321"], "name files or folders with posts, or a --journal besides the URL localhost:14321"),
        (["localhost:14321", "y.bin"], "put the URL http://localhost:14321 last, after the files"),
        (
            ["y.bin", "localhost:4321"],
            "invalid URL 'localhost:4321': start it with http:// or https://, as in http://localh",
        ),
        (["y.bin", "--url", "[::1]:4321/x"], "start it with http:// or https://, as in http://[::1]:4321/x"),
        (["y.bin", "--log-level", "LOUD"], "unknown log level 'LOUD': use DEBUG, INFO, WARNING or ERROR"),
        (["y.bin", "--log-format", "xml"], "unknown log format 'xml': use console, json or auto"),
        (["y.bin", "ftp://host/"], "invalid URL 'ftp://host/': start it with http:// or https://"),
        (["y.bin", "http:///"], "invalid URL 'http:///': add a host after http://"),
        (["y.bin", "http://host:99999/"], "invalid URL 'http://host:99999/': its port must be a number from 1 to"),
        (["y.bin", "http://u:secret@host:0/"], "invalid URL 'http://***@host:0/': its port must be a number"),
        (["y.bin", "http://a..b/"], "invalid URL 'http://a..b/': "),
        (["y.bin", "http://a:b@host/", "--user", "c:d"], "the URL has credentials already"),
        (["y.bin", "--url", "nonsense"], "invalid URL 'nonsense': start it with http:// or https://"),
        (["y.bin", "http://a/", "--url", "http://b/"], "the last argument is a URL already: http://a/"),
        (["y.bin", "http://a/", "--out", "b.btposts"], "the posts can't also be sent to http://a/"),
        (["y.bin", "--out", "b.btposts", "--url", "http://b/"], "the posts are written to a file"),
        (["y.bin", "--out", "b.btposts", "--retry"], "the posts are written to a file"),
        (["y.bin", "--unit", "occurrences"], "only useful with --rate"),
        (["y.bin", "--out", "b.txt"], "use a name that ends with .btposts"),
        (["--journal", "x", "y.bin"], "either files or a journal, not both"),
        (["y.bin", "--from", "1h"], "--from and --to need --journal"),
        (["y.bin", "--speed", "fast"], "invalid speed 'fast': write 1x, 10x, 0.5x or max"),
        (["y.bin", "--speed", "1x", "--rate", "3"], "use either --rate or --speed, not both"),
        (["--journal", "x", "--from", "nonsense"], "'nonsense'"),
        (["y.bin", "--user", "appmon"], "write it as NAME:PASSWORD"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str], what: str) -> None:
    """The message says what is wrong and what to write instead."""
    result = invoke("replay", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert what in " ".join(result.stderr.split())


def test_a_host_alone_may_be_meant_as_the_url(tmp_path: Path) -> None:
    """It may be the name of a file that is missing, so the error says both."""
    result = invoke("replay", EXAMPLES, "appmon.example.com/bt")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("; start it with http:// if it is the URL\n")
    assert "http://" not in invoke("replay", "appmon.example.com").stderr


def test_generate_wants_a_profile_before_the_url() -> None:
    """A URL in its place is recognized."""
    result = invoke("generate", "localhost:4321")
    assert result.exit_code == 2
    assert "name a profile before the URL localhost:4321" in " ".join(result.stderr.split())


def test_an_existing_folder_whose_name_looks_like_a_url_is_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a name that does not exist is taken for a URL without http://."""
    monkeypatch.chdir(tmp_path)
    Path("posts:1").mkdir()
    write(Path("posts:1/a.btposts"))
    result = invoke("replay", "posts:1", "--out", "a.btposts")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("3 posts written to a.btposts (12 occurrences) in ")


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    """In one line, with exit status 1."""
    (tmp_path / "a.btposts").symlink_to("/dev/full")
    result = invoke("replay", EXAMPLES, "--out", tmp_path / "a.btposts")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("a.btposts: No space left on device\n")
