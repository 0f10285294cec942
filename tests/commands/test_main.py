"""The command line: output, exit codes, and error messages."""

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from btfeed import native
from btfeed.commands.main import cli
from tests.support import posts
from tests.support.harness import BTFEED, DEADLINE, Server

EXAMPLES = Path(__file__).parents[2] / "examples" / "posts"
MALFORMED = b"\x0a\xff\xff\xff"


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The real command."""
    return subprocess.run(
        [*BTFEED, *arguments],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def invoke(*arguments: object) -> Result:
    """The command inside this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def write_config(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_wrong_configuration_is_exit_2_with_every_error_on_stderr(command: str, tmp_path: Path) -> None:
    """For every command that needs all of it, with nothing on stdout."""
    config = write_config(tmp_path / "btfeed.toml", '[receiver]\nlisten = "x"\nlisen = 1\n')
    result = invoke(*command.split(), "-c", config)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"2 errors in {config}:",
        "receiver.listen: invalid address: write host:port, for example 127.0.0.1:4321 or [::]:4321",
        "receiver.lisen: unknown key; did you mean listen?",
    ]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["no-such-command"], "No such command"),
        (["serve", "--no-such-option"], "No such option"),
        (["serve", "--log-level", "LOUD"], "unknown log level 'LOUD': use DEBUG, INFO, WARNING or ERROR"),
        (["inspect"], "Missing argument"),
        (["replay", "x.bin", "--rate", "0"], "for '--rate': must be at least 0.001"),
        (["replay", "x.bin", "--connections", "0"], "for '--connections': must be at least 1"),
        (["replay", "x.bin", "--connections", "1001"], "for '--connections': must be at most 1000"),
        (["replay", "x.bin", "--rate", "x"], "for '--rate': must be a number"),
        (["replay", "x.bin", "--unit", "foo"], "for '--unit': 'foo' is not one of 'posts', 'occurrences'"),
        (["generate", "web-shop", "--flows", "0"], "for '--flows': must be at least 1"),
        (["records", "x.bin", "--limit", "x"], "for '--limit': must be an integer"),
        (["dead-letters", "retry", "x"], "must be an integer"),
    ],
)
def test_wrong_usage_is_exit_2_with_what_is_wrong(arguments: list[str], what: str) -> None:
    """On stderr, next to the usage."""
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert what in " ".join(result.stderr.split())


def test_the_version_is_printed() -> None:
    """On stdout, with the mapper in use."""
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"btfeed 0.1.0 (mapping: {native.PATH})\n", "")


# serve


def test_serve_logs_to_stderr_and_ends_with_0_on_sigterm(tmp_path: Path) -> None:
    """One JSON object per line if stderr is not a terminal. Stdout stays empty."""
    with Server(tmp_path) as server:
        server.post(posts.sample_visit())
        assert server.stop() == 0
        events = [event["event"] for event in server.events()]
        assert len(events) == len(server.log().splitlines())
    own = ("listening", "stopping", "stopped")  # those of sinks come in between, when they come
    assert [event for event in events if event in own] == list(own)


def test_check_warns_of_whitespace_around_a_variable(tmp_path: Path) -> None:
    """On stderr, with the name of the variable and without its value."""
    config = write_config(tmp_path / "btfeed.toml", '[receiver]\nbearer_tokens = ["${BTFEED_TEST_TOKEN}"]')
    result = run("check", "-c", str(config), cwd=tmp_path, BTFEED_TEST_TOKEN="hunter2\n")
    assert "warning: environment variable BTFEED_TEST_TOKEN has whitespace at its ends" in result.stderr
    assert "hunter2" not in result.stdout + result.stderr


def test_serve_names_an_address_that_is_in_use(server: Server, tmp_path: Path) -> None:
    """It exits with 1 and says the setting, who has the port, and what to do. No sink was started before."""
    config = write_config(
        tmp_path / "btfeed.toml",
        f'[receiver]\nlisten = "127.0.0.1:{server.port}"\n[admin]\nlisten = "127.0.0.1:0"\n[journal]\ndirectory = "other"',
    )
    result = run("serve", "-c", str(config), cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    address = f"receiver.listen: can't listen on 127.0.0.1:{server.port}"
    loaded, failed = result.stderr.splitlines()
    assert json.loads(loaded)["event"] == "configuration loaded"
    assert failed.startswith(f"can't start: {address}: it is in use by process {server.pid} (")
    assert failed.endswith("). Stop that, or choose another port")


@pytest.mark.slow
def test_serve_does_not_share_a_journal(server: Server, tmp_path: Path) -> None:
    """Two servers on one journal would lose each other's posts."""
    result = run("serve", "-c", str(server.config), cwd=tmp_path)
    loaded, reason = result.stderr.splitlines()
    assert json.loads(loaded)["configuration"] == str(server.config)
    assert (result.returncode, reason) == (1, f"can't start: {server.directory / 'journal'} is in use by another btfeed")


# check


def test_check_lists_its_checks_and_changes_nothing(tmp_path: Path) -> None:
    """It creates no journal, and no directory."""
    listen = 'listen = "127.0.0.1:0"\n'
    config = write_config(
        tmp_path / "btfeed.toml",
        f'[receiver]\n{listen}[admin]\n{listen}[sinks.files]\ntype = "file"\ndirectory = "files"\n',
    )
    result = run("check", "-c", str(config), cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"configuration: ok, {config}",
        f"journal.directory: ok, {tmp_path}/btfeed-data can be written",
        "receiver.listen: ok, 127.0.0.1:0 is free",
        "admin.listen: ok, 127.0.0.1:0 is free",
        "sinks.files: ok, a file sink that could open",
    ]
    assert list(tmp_path.iterdir()) == [config]


def test_check_of_a_running_server_succeeds(server: Server) -> None:
    """What the server has is in use, which the next start does not mind. Warnings don't change the exit status."""
    config = server.directory / "same.toml"
    write_config(config, server.config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{server.port}", 1))
    result = run("check", "-c", str(config))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1:] == [
        "journal.directory: in use, by a btfeed that is running",
        f"receiver.listen: in use, 127.0.0.1:{server.port}, probably by that btfeed",
        "admin.listen: ok, 127.0.0.1:0 is free",
        "sinks.files: ok, a file sink that could open",
    ]
    server.post(posts.sample_visit())


def test_check_lists_each_failure_and_exits_with_1(tmp_path: Path) -> None:
    """A file in place of a directory, and an invalid certificate. The other sink is still checked."""
    file = write_config(tmp_path / "file", "")
    config = write_config(
        tmp_path / "btfeed.toml",
        '[admin]\nlisten = "127.0.0.1:0"\n[receiver]\nlisten = "0.0.0.0:0"\n'
        f'tls = {{ certificate = "{file}", key = "{file}" }}\n[journal]\ndirectory = "{file}"\n'
        f'[sinks.bad]\ntype = "file"\ndirectory = "{file}"\n[sinks.good]\ntype = "file"\ndirectory = "{tmp_path / "x"}"\n',
    )
    result = run("check", "-c", str(config))
    assert result.returncode == 1
    assert [line.partition(",")[0] for line in result.stdout.splitlines()] == [
        "configuration: ok",
        "receiver.listen: warning",
        "receiver.tls: failed",
        "journal.directory: failed",
        "receiver.listen: ok",
        "admin.listen: ok",
        "sinks.bad: failed",
        "sinks.good: ok",
    ]
    assert f"sinks.bad: failed, misconfigured: can't write to {file}: " in result.stdout


# inspect


def test_inspect_shows_a_post_and_its_violations(tmp_path: Path) -> None:
    """Violations of the field table are marked. They are not a failure."""
    result = run("inspect", str(EXAMPLES / "purepath.bin"))
    assert (result.returncode, result.stderr) == (0, "")
    assert "purepath 'btName', application btApplication" in result.stdout
    assert "startTime = 1358330757840 (2013-01-16T10:05:57.840Z)" in result.stdout
    assert "! unexpected visitId" in result.stdout


def test_inspect_prints_one_json_object_per_post() -> None:
    """With --json, for programs."""
    result = invoke("inspect", "--json", EXAMPLES / "mixed.btposts")
    described = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.exit_code, len(described)) == (0, 10)
    assert {transaction["category"] for post in described for transaction in post["transactions"]} == {
        "purepath", "user_action", "visit",
    }  # fmt: skip


def test_inspect_reports_invalid_posts_and_continues(tmp_path: Path) -> None:
    """It exits with 1 and a line on stderr. The posts around the invalid one are shown."""
    (tmp_path / "1.bin").write_bytes(MALFORMED)
    (tmp_path / "2.bin").write_bytes(posts.sample_visit())
    result = invoke("inspect", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith("post 0: not a BusinessTransactions message")
    assert result.stdout.startswith("post 1: ")


# A terminal


@pytest.mark.slow
def test_the_progress_bar_is_for_terminals(server: Server) -> None:
    """It appears on stderr if that is a terminal, never in a pipe or in the results."""
    arguments = ["replay", str(EXAMPLES), server.url]
    assert run(*arguments, FORCE_COLOR="1").stderr == ""
    controller, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([*BTFEED, *arguments], stdout=subprocess.PIPE, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        while chunk := _read(controller):
            shown += chunk
        assert process.stdout
        assert process.stdout.read().startswith(b"13 posts accepted (503 occurrences) in ")
    os.close(controller)
    assert b"sending" in shown
    assert process.returncode == 0


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # the terminal's other end is closed
        return b""
