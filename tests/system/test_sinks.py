"""btfeed sinks: one of two sinks of a running server is paused, resumed and rewound, and the other goes on."""

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from tests.commands.test_main import invoke
from tests.support.harness import DEADLINE, Server, until
from tests.support.posts import mixed

POSTS, RECORDS = 5, 20


def two_sinks(directory: Path, admin: str = "") -> Server:
    sinks = "".join(
        f'[sinks."{name}"]\ntype = "file"\ndirectory = "{directory / place}"\n[sinks."{name}".delivery]\nlinger = "10ms"\n'
        for name, place in (("one", "one"), ("the other/ü", "other"))
    )
    return Server(directory, sinks, admin=admin)


def sinks(server: Server, *arguments: object, token: str = "") -> Result:
    """The command, asking that server."""
    config = server.directory / "asked.toml"
    config.write_text(f'[admin]\nlisten = "{server.admin_url.removeprefix("http://")}"\n{token}\n')
    return invoke("sinks", *arguments, "-c", config)


def send(server: Server, seed: int) -> None:
    for number in range(POSTS):
        assert server.post(mixed(RECORDS, seed * 100 + number)) == (200, "")


def ids(server: Server, place: str) -> list[str]:
    return [record["event.id"] for record in server.records(server.directory / place)]


def caught_up(server: Server, name: str) -> None:
    until(lambda: server.status()["sinks"][name]["backlog_posts"] == 0, f"{name} has everything")


def test_one_sink_is_paused_over_a_restart_and_the_other_goes_on(tmp_path: Path) -> None:
    """Nothing is lost or delivered twice. Status, readiness, metrics and the log say that it is paused."""
    server = two_sinks(tmp_path)
    with server:
        send(server, 0)
        caught_up(server, "one")
        paused = sinks(server, "pause", "one")
        assert (paused.exit_code, paused.stdout.splitlines()[0].partition(". ")[0]) == (0, "sink one is paused")
        assert sinks(server, "pause", "one").stdout == "sink one is paused already\n"
        send(server, 1)
        caught_up(server, "the other/ü")
        found = server.status()["sinks"]["one"]
        assert (found["state"], found["backlog_posts"], found["type"]) == ("paused", POSTS, "file")
        assert found["paused_since"] > 0
        assert "sink one is paused since 2" in server.get("/readyz")
        assert 'btfeed_sink_state{sink="one",state="paused"} 1.0' in server.get("/metrics")
        assert 'btfeed_sink_up{sink="one"} 0.0' in server.get("/metrics")
        assert len(ids(server, "one")) == POSTS * RECORDS
    with server:
        assert any(event["event"] == "sink is paused, the journal holds its posts" for event in server.events())
        send(server, 2)
        caught_up(server, "the other/ü")
        lines = sinks(server, "list").stdout.splitlines()
        assert lines[0].split() == ["NAME", "TYPE", "STATE", "POSITION", "BACKLOG", "DELIVERED", "LAST", "ERROR"]
        assert lines[1].split()[:6] == ["one", "file", "paused", str(POSTS + 1), str(2 * POSTS), "posts"]
        assert lines[2].split()[-6:] == ["running", str(3 * POSTS + 1), "0", "posts", str(POSTS * RECORDS), "none"]
        assert len(ids(server, "one")) == POSTS * RECORDS
        assert sinks(server, "resume", "one").stdout == "sink one goes on\n"
        assert sinks(server, "resume", "one").stdout == "sink one is not paused\n"
        caught_up(server, "one")
        assert 'btfeed_sink_state{sink="one",state="paused"} 0.0' in server.get("/metrics")
        assert ids(server, "one") == ids(server, "other")
        assert len(set(ids(server, "one"))) == 3 * POSTS * RECORDS


def test_a_pause_survives_a_reload(tmp_path: Path) -> None:
    """Also one that changes how posts are mapped, for which all sinks stop and start again."""
    with two_sinks(tmp_path) as server:
        sinks(server, "pause", "one")
        with server.config.open("a") as file:
            file.write('[record.attributes]\n"deployment.environment" = "test"\n')
        os.kill(server.pid, signal.SIGHUP)
        until(lambda: any(event["event"] == "configuration reloaded" for event in server.events()), "reloaded")
        send(server, 0)
        caught_up(server, "the other/ü")
        assert server.records(tmp_path / "other")[0]["deployment.environment"] == "test"
        assert (server.status()["sinks"]["one"]["state"], ids(server, "one")) == ("paused", [])
        sinks(server, "resume", "one")
        caught_up(server, "one")
        assert ids(server, "one") == ids(server, "other")


def test_a_rewound_file_sink_writes_the_records_again(tmp_path: Path) -> None:
    """Behind those that are there, whole, and in order, also after kill -9. The other sink doesn't notice."""
    server = two_sinks(tmp_path)
    with server:
        send(server, 0)
        caught_up(server, "the other/ü")
        once = ids(server, "other")
        done = sinks(server, "rewind", "the other/ü", "--to", "oldest")
        first, second = done.stdout.splitlines()
        assert first == f"sink the other/ü continues at position 1: it gets {POSTS} posts again"
        assert second.startswith("the journal has posts since 2")
        caught_up(server, "the other/ü")
        assert ids(server, "other") == once + once
        server.kill()
    with server:
        send(server, 1)
        caught_up(server, "the other/ü")
        assert ids(server, "other")[: 2 * len(once)] == once + once
        caught_up(server, "one")
        assert len(ids(server, "one")) == 2 * len(once)
        done = sinks(server, "rewind", "one", "--to", POSTS + 3)
        assert done.stdout.startswith(f"sink one continues at position {POSTS + 3}: it gets {POSTS - 2} posts again\n")
        done = sinks(server, "rewind", "one", "--to", "2h")
        assert done.stdout.splitlines()[1].startswith("the journal has no earlier posts: its oldest was received 2")
        done = sinks(server, "rewind", "one", "--to", "2001-01-16T10:05")
        assert "the journal has no earlier posts" in done.stdout


def test_a_sink_skips_posts_only_with_skip(tmp_path: Path) -> None:
    """The command says how many. They are a loss, and shown as one."""
    with two_sinks(tmp_path) as server:
        sinks(server, "pause", "one")
        send(server, 0)
        refused = sinks(server, "rewind", "one", "--to", "latest")
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert f"it would never get {POSTS} posts" in refused.stderr
        done = sinks(server, "rewind", "one", "--to", "latest", "--skip")
        assert (done.exit_code, done.stderr) == (0, f"sink one never gets {POSTS} posts\n")
        assert done.stdout.splitlines()[-1] == "it is paused: `btfeed sinks resume one` lets it go on"
        assert server.status()["counts"]["skipped_posts"] == {"one": POSTS}
        shown = invoke("status", "-c", server.directory / "asked.toml").stdout
        assert f"skipped by operators: {POSTS} posts of sink one" in shown
        sinks(server, "resume", "one")
        send(server, 1)
        until(lambda: len(ids(server, "one")) == POSTS * RECORDS, "only the later ones")


def test_what_can_not_be_done_is_said(tmp_path: Path) -> None:
    """An unknown sink, no server, a wrong token, and places that are none."""
    with two_sinks(tmp_path, admin='token = "s3cret"') as server:
        unknown = sinks(server, "pause", "two", token='token = "s3cret"')
        assert (unknown.exit_code, unknown.stdout) == (1, "")
        assert unknown.stderr == "no sink two is running: the sinks are one, the other/ü\n"
        assert "asks for a token" in sinks(server, "pause", "one").stderr
        assert "does not accept the token" in sinks(server, "list", token='token = "x"').stderr
        assert json.loads(sinks(server, "list", "--json", token='token = "s3cret"').stdout.splitlines()[0])["name"] == "one"
        by_url = invoke("sinks", "resume", "one", "--url", server.admin_url, "--token", "s3cret")
        assert (by_url.exit_code, by_url.stdout) == (0, "sink one is not paused\n")
        for place in ("yesterday", "1:", "-3", "2x"):
            wrong = sinks(server, "rewind", "one", "--to", place, token='token = "s3cret"')
            assert (wrong.exit_code, "write 2h, 2026-01-16T10:05, a position" in wrong.stderr) == (2, True)
        assert 'btfeed_admin_refused_total{reason="token"} 2.0' in _get(server, "/metrics")
        server.stop()
        assert "Is the server running?" in sinks(server, "pause", "one").stderr


def _get(server: Server, path: str) -> str:
    request = urllib.request.Request(server.admin_url + path, headers={"Authorization": "Bearer s3cret"})
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 400), (b"{}", 400), (b"[]", 400), (b'{"time": 1, "positions": {"0": 1}}', 400), (b'{"positions": {}}', 400),
     (b'{"to": 1}', 400), (b'{"time": "x"}', 400), (b"\xff", 400), (b'{"positions": {"5": 1}}', 409),
     (b'{"positions": {"0": 1}, "skip": true}', 200), (b" " * 100_000, 413)],
)  # fmt: skip
def test_a_rewind_over_http_is_checked(shared: Server, content: bytes, status: int) -> None:
    """What is no place is a 400, and says what is wrong."""
    answer = post_json(shared.admin_url + "/sinks/files/rewind", content)
    assert (answer[0], bool(answer[1])) == (status, True)


def post_json(url: str, content: bytes) -> tuple[int, bytes]:
    """POST JSON; returns status and body."""
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("shared")) as server:
        yield server
