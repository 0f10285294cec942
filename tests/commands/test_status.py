"""The command status: what it says of a running server, and its exit status."""

import json
from pathlib import Path
from typing import Any

import pytest

from btfeed.commands.status import _lines, _losses, journal
from btfeed.telemetry.metrics import Metrics
from tests.commands.test_admin_client import answering
from tests.commands.test_main import MALFORMED, invoke, run, write_config
from tests.support import posts
from tests.support.harness import Server, until


def test_status_without_a_server_is_exit_1_and_names_the_address(tmp_path: Path) -> None:
    """Even if a proxy is configured, which must not be used."""
    config = write_config(tmp_path / "btfeed.toml", '[admin]\nlisten = "127.0.0.1:1"\n')
    result = run("status", "-c", str(config), http_proxy="http://127.0.0.1:2")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "no response from btfeed at 127.0.0.1:1 (admin.listen): Connection refused. Is the server running?\n"
    )


def test_status_tells_losses() -> None:
    """Whatever is gone for good, and why. Nothing, if nothing is."""
    earlier = {"evicted_dead_letters": {"": 1, "a": 2}, "journal_dropped_posts": {"b": 1}, "journal_lost_posts": 4}
    counts = earlier | {"lost_dead_letters": 2}
    sinks = {"a": {}, "b": {"flagged": {"far_future": 1, "lost_files": 1, "lost_records": 9}}}
    assert list(_losses({"counts": counts, "sinks": sinks})) == [
        "3 dead letters deleted to stay within their bound",
        "2 dead letters lost in a damaged journal",
        "1 open file of sink b lost with the records in it",
        "1 post of sink b dropped because the journal was full",
        "4 posts lost in a damaged journal",
    ]
    assert len(list(_losses({"counts": earlier, "sinks": {}}))) == 3
    assert list(_losses({"counts": Metrics().summary(), "sinks": {}})) == []


def test_status_tells_that_a_restart_failed(server: Server) -> None:
    """With the reason. Nothing without one."""
    status = server.status()
    assert "RESTART" not in "".join(_lines(status))
    failed = "RESTART FAILED at 1970-01-01T00:00:00.000Z, this is the old server: the new one ended with exit status 2"
    assert failed in _lines(status | {"failed_restart": {"time": 0, "reason": "exit status 2"}})


def test_status_tells_which_workers_do_not_receive(server: Server) -> None:
    """Of several. Nothing of a server without workers."""
    status = server.status()
    assert "worker" not in "".join(_lines(status))
    workers = {"1": {"ready": True, "refusing": None}, "2": None, "3": {"ready": False, "refusing": "the disk is full"}}
    told = list(_lines(status | {"workers": workers}))
    assert told[1:4] == ["workers: 1 of 3 ready", "  worker 2: does not answer", "  worker 3: NOT READY: the disk is full"]


def test_status_tells_what_operators_skipped(server: Server) -> None:
    """Apart from what is lost: they decided it, and can rewind the sink."""
    status = server.status()
    status["counts"]["skipped_posts"] = {"a": 7}
    told = list(_lines(status))
    assert "skipped by operators: 7 posts of sink a, unless a later rewind brought them back" in told
    assert not any(line.startswith("LOST") for line in told)


def test_status_tells_that_the_last_reload_failed(server: Server) -> None:
    """With its errors. Nothing after one that worked."""
    reload = {"time": 0, "outcome": "failed", "errors": ["sinks.a: no such file", "record: wrong"]}
    status = server.status()
    failed = "RELOAD FAILED at 1970-01-01T00:00:00.000Z, btfeed goes on as before: sinks.a: no such file; record: wrong"
    assert failed in _lines(status | {"reload": reload})
    assert "RELOAD" not in "".join(_lines(status | {"reload": reload | {"outcome": "ok", "errors": []}}))


def test_status_tells_which_of_several_processes_it_is(server: Server) -> None:
    """Its role, and its name in a journal that they share."""
    status = server.status() | {"role": "deliver", "instance": "one", "prefix": "b"}
    assert next(_lines(status)).startswith("btfeed 0.1.0 deliver as one, journal b, up ")


def test_status_tells_only_what_the_process_has(server: Server) -> None:
    """With a journal in Kafka, a receiver has a spill, and a deliverer neither posts nor files of its own."""
    status = server.status() | {"instance": "one", "prefix": "b"}
    status["counts"] |= {"spill_posts": 7, "spill_bytes": status["counts"]["journal_bytes"]}
    receiver = "\n".join(_lines(status | {"role": "receive", "sinks": {}}))
    assert "\nreceived: " in receiver
    assert "\nspill: 7 posts, " in receiver
    assert "\njournal: " not in receiver
    status["counts"] |= {"journal_limit_bytes": 0, "journal_free_bytes": 0}
    deliverer = "\n".join(_lines(status | {"role": "deliver"}))
    assert "\nsink files: " in deliverer
    assert not any(line in deliverer for line in ("received: ", "spill: ", "journal: ", "free on its disk"))


def test_status_tells_an_error_that_has_no_time(server: Server) -> None:
    """What keeps a sink from being opened is so now: the server says no time."""
    status = server.status()
    status["sinks"]["files"] |= {"state": "opening", "last_error": "no broker replies", "last_error_time": None}
    (shown,) = (line for line in _lines(status) if line.startswith("sink files: opening, "))
    assert shown.endswith(" 0 dead letters, error: no broker replies")


def test_status_tells_how_much_of_the_journal_is_used() -> None:
    """And what is free on its disk. Earlier servers tell neither."""
    counts = {"journal_bytes": 2**20}
    assert journal(counts) == "1.0 MiB"
    counts |= {"journal_limit_bytes": 4 * 2**20, "journal_free_bytes": 3 * 2**30}
    assert journal(counts) == "1.0 MiB of 4.0 MiB (25%), 3.0 GiB free on its disk"


def test_status_of_a_server_that_refuses_posts_is_exit_1(server: Server) -> None:
    """So that a script can ask for it. The output is the same, as JSON too."""
    status = server.status() | {"ready": False, "refusing": "the journal is full"}
    with answering(200, json.dumps(status).encode()) as listener:
        result = invoke("status", "--url", listener.url)
        assert result.exit_code == 1
        assert result.stdout.splitlines()[0].endswith(" s, NOT READY: the journal is full")
        as_json = invoke("status", "--url", listener.url, "--json")
        assert (as_json.exit_code, json.loads(as_json.stdout)) == (1, status)


def test_status_of_a_url_needs_no_configuration(tmp_path: Path) -> None:
    """Nor reads the one of the environment. The token is an option, in a file, or in a variable."""
    (tmp_path / "token").write_text("s3cret\n")
    with Server(tmp_path / "server", "", admin='token = "s3cret"') as server:
        ask = ["status", "--url", server.admin_url]
        assert "asks for a token" in invoke(*ask).stderr
        assert invoke(*ask, "--token", "s3cret").exit_code == 0
        assert invoke(*ask, "--token", f"@{tmp_path / 'token'}").exit_code == 0
        result = run(*ask, BTFEED_CONFIG=str(tmp_path / "gone"), BTFEED_ADMIN_TOKEN="s3cret")
        assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--url", "localhost:4322"], "start it with http:// or https://, as in http://localhost:4322"),
        (["--token", "x"], "use it with --url only"),
        (["--url", "http://localhost:4322", "--token", "@/gone"], "can't read /gone: No such file or directory"),
        (["--interval", "2s"], "only useful with --watch"),
        (["--watch", "--interval", "2"], "invalid time '2': write 500ms, 2s, 1m30s or 7d"),
        (["--watch", "--interval", "1ms"], "ask at most ten times a second"),
    ],
)
def test_wrong_usage_of_status_is_exit_2(arguments: list[str], what: str) -> None:
    """With what to write instead."""
    result = invoke("status", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert what in " ".join(result.stderr.split())


def test_status_shows_counts_sinks_and_violations(server: Server) -> None:
    """As text, or with --json as the server reports it."""
    server.post(posts.sample_purepath())
    server.post(MALFORMED)
    server.delivered(1)
    config = write_config(server.directory / "asked.toml", f'[admin]\nlisten = "{server.admin_url[7:]}"\n')
    until(lambda: server.status()["sinks"]["files"]["backlog_posts"] == 0, "delivered")
    until(lambda: server.status()["counts"]["journal_posts"] == 1, "measured")
    lines = invoke("status", "-c", config).stdout.splitlines()
    assert lines[0].startswith("btfeed 0.1.0, up ")
    assert lines[0].endswith(" s, ready")
    assert lines[1] == "received: 1 post with 1 occurrence, 1 request refused (malformed 1)"
    assert lines[2].startswith("journal: 1 post, ")
    assert lines[4].startswith("kept: 1 dead letter of no sink, malformed, the oldest ")
    assert lines[3:] == [
        "sink files: running, 1 record delivered, 0 posts behind, 0 dead letters",
        lines[4],
        "1 violation: unexpected visitId in 'btName'",
    ]
    asked: dict[str, Any] = json.loads(invoke("status", "--json", "-c", config).stdout)
    assert asked["counts"]["posts"] == 1


def test_status_recognizes_that_another_server_answers(server: Server) -> None:
    """Such as with the receiver's port in admin.listen. There is no traceback."""
    config = write_config(server.directory / "wrong.toml", f'[admin]\nlisten = "127.0.0.1:{server.port}"\n')
    result = run("status", "-c", str(config))
    assert result.returncode == 1
    assert f"127.0.0.1:{server.port} (admin.listen) is not btfeed's admin listener (HTTP 404)" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--token", ""], "it is empty: a token is needed there"),
        (["--token", "@empty"], "the file empty is empty: a token is needed there"),
        (["--token", "@bad"], "a token has visible ASCII characters only"),
        (["-c", "btfeed.toml"], "with --url, no configuration is read"),
        (["--ca", "ca.pem"], "only useful with a --url that starts with https://"),
    ],
)
def test_options_that_can_not_be_used_with_a_url_are_wrong_usage(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is ignored in silence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bad").write_bytes(b"\xff\xfe\x00")
    result = invoke("status", "--url", "http://127.0.0.1:1", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.replace("│", "").split())
