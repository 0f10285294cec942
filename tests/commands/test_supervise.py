"""`btfeed serve --supervise`: which process starts what."""

import json
import os
import signal
import socket
import subprocess
from functools import partial
from pathlib import Path

import pytest

from btfeed.commands.supervise import server_command
from tests.support.harness import DEADLINE, until
from tests.support.held import SupervisedServer, installed

pytestmark = pytest.mark.slow


def test_an_installed_command_is_started_by_its_own_path(tmp_path: Path) -> None:
    """Not resolved, so a link in it may lead to another version later. Not by the interpreter that runs it now."""
    (tmp_path / "1").mkdir()
    installed(tmp_path / "1" / "btfeed")
    (tmp_path / "current").symlink_to("1")
    command = str(tmp_path / "current" / "btfeed")
    original = ["/venv/bin/python3", command, "serve", "--supervise", "-c", "btfeed.toml"]
    assert server_command(original[1:], original) == [command, "serve", "-c", "btfeed.toml"]


def test_a_module_is_started_by_its_interpreter(tmp_path: Path) -> None:
    """As `python -m` was."""
    original = ["python", "-m", "btfeed", "serve", "--supervise"]
    _, *rest = server_command([str(tmp_path / "__main__.py"), "serve", "--supervise"], original)
    assert rest == ["-m", "btfeed", "serve"]


def test_faults_at_the_start_are_told_as_without_a_supervisor(tmp_path: Path) -> None:
    """A wrong configuration is exit status 2, a port in use is 1. No supervisor is left."""
    command = installed(tmp_path / "btfeed")
    config = tmp_path / "btfeed.toml"

    def run() -> "subprocess.CompletedProcess[str]":
        arguments = [str(command), "serve", "--supervise", "-c", str(config)]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=DEADLINE, check=False)

    config.write_text("[receiver]\nlisten = 'x'\n")
    result = run()
    assert (result.returncode, "receiver.listen: invalid address" in result.stderr) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config.write_text(f"[receiver]\nlisten = '127.0.0.1:{port}'\n[admin]\nlisten = '127.0.0.1:0'\n")
        result = run()
    assert result.returncode == 1
    assert "in use by process" in result.stderr
    assert "server started" not in result.stderr


def test_the_supervisor_holds_the_sockets_and_little_else(tmp_path: Path) -> None:
    """It keeps the pid, has the two sockets that listen, and the server's memory is not its own."""
    with SupervisedServer(tmp_path) as server:
        (pid,) = server.pids
        supervisor, child = Path("/proc", str(server.pid)), Path("/proc", str(pid))
        assert "btfeed.supervisor" in (supervisor / "cmdline").read_text()
        assert (child / "cmdline").read_text().split("\0")[1:3] == [str(tmp_path / "btfeed"), "serve"]
        listening = {row.split()[9] for row in Path("/proc/net/tcp").read_text().splitlines() if row.split()[3] == "0A"}

        def held(process: Path) -> set[str]:
            names = {str(each.readlink()) for each in (process / "fd").iterdir()}
            return {name.removeprefix("socket:[").removesuffix("]") for name in names} & listening

        assert held(supervisor) == held(child)
        assert len(held(supervisor)) == 2
        assert resident(supervisor) < resident(child) / 2


def resident(process: Path) -> int:
    """Pages."""
    return int((process / "statm").read_text().split()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_both(tmp_path: Path, number: signal.Signals) -> None:
    """With exit status 0, and the port is free."""
    server = SupervisedServer(tmp_path).start()
    (pid,) = server.pids
    os.kill(server.pid, number)
    assert server.process
    assert server.process.wait(DEADLINE) == 0
    assert not Path("/proc", str(pid)).exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_a_changed_address_is_told_after_a_restart_of_the_server(tmp_path: Path) -> None:
    """The supervisor holds the old one until it is restarted itself."""
    with SupervisedServer(tmp_path) as server:
        text = server.config.read_text()
        server.config.write_text(text.replace('[receiver]\nlisten = "127.0.0.1:0"', '[receiver]\nlisten = "127.0.0.2:0"'))
        server.restart()
        until(lambda: len(server.pids) == 2, "restarted")
        (line,) = [event for event in server.events() if event["level"] == "warning"]
        assert line["event"] == "using an inherited socket that is not as configured"
        assert line["setting"] == "receiver.listen"
        assert json.loads(server.get("/status"))["ready"]


def test_a_restart_that_can_not_succeed_leaves_the_old_server(tmp_path: Path) -> None:
    """If the file is wrong, or what it names can't be used. The log says what is wrong, and others that it is."""
    with SupervisedServer(tmp_path) as server:

        def failed(restarts: int) -> bool:
            ended = "new server ended before it could take over, the old one goes on"
            return [event["event"] for event in server.events()].count(ended) == restarts

        text = server.config.read_text()
        (tmp_path / "file").touch()
        wrong = {
            "receiver.lisen: unknown key": "[receiver]\nlisen = 1\n",
            "/no.pem": text.replace("[admin]", 'tls = { certificate = "/no.pem", key = "/no.key" }\n[admin]'),
            "Not a directory": text.replace("/journal", "/file/journal"),
        }
        for number, (what, changed) in enumerate(wrong.items(), 1):
            server.config.write_text(changed)
            server.restart()
            until(partial(failed, number), "said")
            assert what.lower() in server.log().lower()
            until(lambda: f"btfeed_failed_restarts_total {number}.0" in server.get("/metrics"), "counted")  # noqa: B023
            status = server.status()
            assert status["ready"]
            assert status["failed_restart"]["reason"].startswith("exit status")
            assert "btfeed_last_restart_successful 0.0" in server.get("/metrics")
        server.config.write_text(text)
        server.restart()
        server.listening_again(2)
        assert server.status()["failed_restart"] is None


def test_a_reload_reaches_the_server(tmp_path: Path) -> None:
    """SIGHUP goes to the supervisor, whose pid is the one that others know."""
    with SupervisedServer(tmp_path) as server:
        server.config.write_text(server.config.read_text() + "[validation]\nmissing = 'dead-letter'\n")
        os.kill(server.pid, signal.SIGHUP)
        until(lambda: [event for event in server.events() if event["event"] == "configuration reloaded"], "reloaded")
        assert len(server.pids) == 1


def test_a_server_whose_supervisor_is_killed_stops(tmp_path: Path) -> None:
    """And frees the ports for the next supervisor. It says so."""
    with SupervisedServer(tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: server.events()[-1]["event"] == "stopped", "stopped")
        assert [event for event in server.events() if event["event"] == "the supervisor is gone, stopping"]
        with socket.socket() as probe:
            until(lambda: probe.connect_ex(("127.0.0.1", server.port)), "no longer listening")
        assert "can't notify" not in server.log()
