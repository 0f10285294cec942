"""The supervisor, with small programs in place of a server."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from btfeed import slot
from tests.support.harness import DEADLINE, until
from tests.support.supervised import SUBREAPER, starting


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    with starting(tmp_path) as start:
        yield start


def test_it_imports_little() -> None:
    """The standard library, and no event loop: it is small, and lives through the upgrades of everything else."""
    program = "import sys, btfeed.supervisor; print(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    modules = result.stdout.split()
    assert {name for name in modules if name.startswith(("btfeed", "sinks"))} == {
        "btfeed", "btfeed.notify", "btfeed.slot", "btfeed.supervisor",
    }  # fmt: skip
    assert not {"asyncio", "ssl", "pydantic", "structlog", "subprocess", "typer"} & set(modules)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_passed_on_and_ends_both(run: Any, number: signal.Signals) -> None:
    """With the server's exit status."""
    supervised = run("signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); note('up'); idle()")
    supervised.noted("up")
    supervised.process.send_signal(number)
    assert supervised.process.wait(DEADLINE) == 7
    assert len(supervised.events("server started")) == 1


@pytest.mark.slow
def test_a_server_that_dies_is_started_again(run: Any) -> None:
    """After a second, which doubles until a server is ready. The log has the reason."""
    supervised = run("note('up'); os.kill(os.getpid(), 9) if len(open('notes').readlines()) < 2 else sys.exit(1)")
    supervised.started(3)
    first, second = supervised.events("server ended, starting it again")[:2]
    assert (first["reason"], first["seconds"], first["level"]) == ("signal 9 (Killed)", 1.0, "error")
    assert (second["reason"], second["seconds"]) == ("exit status 1", 2.0)


def test_a_wrong_configuration_at_the_start_ends_the_supervisor(run: Any) -> None:
    """There is nothing to hold sockets for."""
    assert run("sys.exit(2)").process.wait(DEADLINE) == 2


def test_sigusr2_lets_a_new_server_take_over(run: Any) -> None:
    """It prepares itself beside the old one, and goes on when that has ended. A link in the command line may lead to
    another version by then."""
    supervised = run("note('prepares'); take_over(); serve()", manager=True)
    supervised.hears("READY=1")
    supervised.process.send_signal(signal.SIGUSR2)
    supervised.noted("prepares", "up", "prepares", "stopped", "up")
    supervised.started(2)
    until(lambda: supervised.events("server stopped"), "the old one has ended")
    assert supervised.events("server stopped")[0]["reason"] == "exit status 0"
    assert supervised.events("server stopped")[0]["level"] == "info"
    assert supervised.events("server ended, starting it again") == []
    assert supervised.children() == [supervised.started(2)]


def test_a_restart_during_a_restart_comes_afterwards(run: Any) -> None:
    """What is to be started may have changed since the first one began. Any number of them is one."""
    supervised = run(
        """
        while "BTFEED_TAKE_OVER" in os.environ and not os.path.exists("go"):
            time.sleep(0.01)
        take_over()
        serve()
        """,
        manager=True,
    )
    supervised.hears("READY=1")
    supervised.process.send_signal(signal.SIGUSR2)
    supervised.started(2)
    for _ in range(3):
        supervised.process.send_signal(signal.SIGUSR2)
        until(lambda: not signal_is_pending(supervised.process.pid, signal.SIGUSR2), "received")
    (supervised.directory / "go").touch()
    supervised.noted("up", "stopped", "up", "stopped", "up")
    supervised.process.send_signal(signal.SIGTERM)
    supervised.process.wait(DEADLINE)
    assert len(supervised.events("server started")) == 3


def signal_is_pending(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("ShdPnd:\t")[2].split()[0], 16) >> (number - 1) & 1)


def test_a_new_server_goes_on_when_the_old_one_has_released_everything(run: Any) -> None:
    """It need not wait until the other process has ended."""
    supervised = run(
        """
        take_over()
        until_term(lambda: (note("released"), tell("X_BTFEED_RELEASED=1"), time.sleep(60)))
        note("up")
        tell("READY=1")
        idle()
        """,
        manager=True,
    )
    supervised.hears("READY=1")
    supervised.process.send_signal(signal.SIGUSR2)
    supervised.noted("up", "released", "up")
    assert len(supervised.children()) == 2


@pytest.mark.parametrize("fault", ["sys.exit(2)", "os.kill(os.getpid(), 9)"])
def test_a_new_server_that_can_not_start_leaves_the_old_one(run: Any, fault: str) -> None:
    """Such as one with a wrong configuration. The log says why, and a later restart may succeed."""
    program = f"{fault} if os.path.exists('wrong') else take_over(); serve()"
    supervised = run(program, manager=True)
    supervised.hears("READY=1")
    (supervised.directory / "wrong").touch()
    supervised.process.send_signal(signal.SIGUSR2)
    until(lambda: supervised.events("new server ended before it could take over, the old one goes on"), "said")
    assert supervised.notes() == ["up"]
    (supervised.directory / "wrong").unlink()
    supervised.process.send_signal(signal.SIGUSR2)
    supervised.noted("up", "stopped", "up")


def test_a_server_reads_what_concerns_it_until_the_supervisor_is_gone(run: Any) -> None:
    """That no other one could take over from it; then the end of the file. Not what concerned earlier servers."""
    supervised = run(
        """
        if "BTFEED_TAKE_OVER" in os.environ:
            sys.exit(3)
        tell("READY=1")
        note("up")
        for line in open(int(os.environ["BTFEED_SUPERVISOR"])):
            note(line.strip())
        note("alone")
        """,
        manager=True,
    )
    supervised.noted("up")
    supervised.hears("READY=1")
    supervised.process.send_signal(signal.SIGUSR2)
    supervised.noted("up", "RESTART_FAILED=exit status 3")
    supervised.process.kill()
    supervised.noted("up", "RESTART_FAILED=exit status 3", "alone")


@pytest.mark.slow
def test_a_new_server_that_dies_when_the_old_one_stops_is_started_again(run: Any) -> None:
    """Then there is no old one to go on."""
    supervised = run(
        """
        if os.path.exists("wrong"):
            os.unlink("wrong")
            tell("X_BTFEED_PREPARED=1")
            sys.exit(1)
        serve()
        """,
        manager=True,
    )
    supervised.hears("READY=1")
    (supervised.directory / "wrong").touch()
    supervised.process.send_signal(signal.SIGUSR2)
    supervised.noted("up", "stopped", "up")
    supervised.started(3)


def test_a_new_server_takes_over_from_one_that_dies(run: Any) -> None:
    """While it prepares itself."""
    supervised = run(
        """
        while "BTFEED_TAKE_OVER" in os.environ and not os.path.exists("go"):
            time.sleep(0.01)
        take_over()
        note("up")
        tell("READY=1")
        time.sleep(60)
        """,
        manager=True,
    )
    supervised.hears("READY=1")
    supervised.process.send_signal(signal.SIGUSR2)
    new = supervised.started(2)
    old = next(pid for pid in supervised.children() if pid != new)
    os.kill(old, signal.SIGKILL)
    until(lambda: supervised.events("server stopped"), "seen")
    assert supervised.events("server stopped")[0]["level"] == "error"
    (supervised.directory / "go").touch()
    supervised.noted("up", "up")
    assert supervised.children() == [new]


def test_a_stop_ends_a_server_that_prepares_itself(run: Any) -> None:
    """And the old one as ever."""
    program = "'BTFEED_TAKE_OVER' in os.environ and time.sleep(60); until_term(); tell('READY=1'); idle()"
    supervised = run(program, manager=True)
    supervised.hears("READY=1")
    supervised.process.send_signal(signal.SIGUSR2)
    supervised.started(2)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(DEADLINE) == 0
    assert supervised.notes() == ["stopped"]


def test_a_reload_waits_until_the_server_is_ready(run: Any) -> None:
    """SIGHUP would end a server that does not handle it yet."""
    supervised = run(
        """
        handler = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        note("up")
        while not os.path.exists("go"):
            time.sleep(0.01)
        signal.signal(signal.SIGHUP, handler)
        tell("READY=1")
        idle()
        """
    )
    supervised.noted("up")
    supervised.process.send_signal(signal.SIGHUP)
    (supervised.directory / "go").touch()
    supervised.noted("up", "reloaded")
    supervised.process.send_signal(signal.SIGHUP)
    supervised.noted("up", "reloaded", "reloaded")


def test_a_reload_during_a_restart_reaches_both_servers_once(run: Any) -> None:
    """The next server may have read the configuration before it changed. What the old one says afterwards, such as that it
    is ready again, does not count for the next one."""
    supervised = run(
        """
        name = "next" if "BTFEED_TAKE_OVER" in os.environ else "old"
        signal.signal(signal.SIGHUP, lambda *_: (note(f"{name} reloaded"), tell("RELOADING=1"), tell("READY=1")))
        note(f"{name} loaded")
        while name == "next" and not os.path.exists("go"):
            time.sleep(0.01)
        take_over()
        until_term()
        tell("READY=1")
        idle()
        """,
        manager=True,
    )
    supervised.hears("READY=1")
    supervised.process.send_signal(signal.SIGUSR2)
    supervised.noted("old loaded", "next loaded")
    supervised.process.send_signal(signal.SIGHUP)
    supervised.noted("old loaded", "next loaded", "old reloaded")
    supervised.hears("RELOADING=1")
    (supervised.directory / "go").touch()
    supervised.noted("old loaded", "next loaded", "old reloaded", "stopped", "next reloaded")
    supervised.process.send_signal(signal.SIGTERM)
    supervised.process.wait(DEADLINE)
    assert supervised.notes()[3:] == ["stopped", "next reloaded", "stopped"]


def test_orphans_are_reaped(run: Any) -> None:
    """As PID 1 of a container, the supervisor becomes the parent of processes whose own has ended."""
    supervised = run(
        """
        supervisor = os.getppid()
        child = os.fork()
        if not child:
            orphan = os.fork()
            if not orphan:
                while os.getppid() != supervisor:
                    time.sleep(0.01)
                note(f"orphan {os.getpid()}")
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(60)
        """,
        prefix=[sys.executable, "-c", SUBREAPER],
    )
    until(supervised.notes, "adopted")
    orphan = Path("/proc", supervised.notes()[0].split()[1])
    until(lambda: not orphan.exists(), "reaped")
    assert len(supervised.events("server started")) == 1


def test_a_server_that_hangs_is_killed(run: Any) -> None:
    """When it sends no WATCHDOG=1 for as long as the service manager allows. SIGABRT lets it log where it hangs."""
    supervised = run(
        """
        import faulthandler
        faulthandler.enable()
        def hang():
            tell("READY=1")
            time.sleep(60)
        hang()
        """,
        manager=True, watchdog=0.5,
    )  # fmt: skip
    supervised.started(2)
    assert supervised.events("server does not answer, killing it")
    assert "signal 6" in supervised.events("server ended, starting it again")[0]["reason"]
    assert "in hang" in (supervised.directory / "log").read_text()
    supervised.hears("WATCHDOG=1")


def test_the_service_manager_is_told_what_concerns_it(run: Any) -> None:
    """The supervisor is its main process, and a restart is no stop of the service."""
    supervised = run(
        """
        take_over()
        until_term(lambda: tell("STOPPING=1\\nSTATUS=stopping"))
        tell("MAINPID=1\\nREADY=1\\nSTATUS=listening")
        tell("RELOADING=1\\nMONOTONIC_USEC=17")
        tell("WATCHDOG=1")
        note("up")
        idle()
        """,
        manager=True,
    )
    supervised.noted("up")
    supervised.hears("READY=1\nSTATUS=listening")
    supervised.hears("RELOADING=1\nMONOTONIC_USEC=17")
    supervised.process.send_signal(signal.SIGUSR2)
    supervised.noted("up", "stopped", "up")
    supervised.hears("STATUS=stopping")
    assert "STOPPING=1" not in "\n".join(supervised.told)
    supervised.process.send_signal(signal.SIGTERM)
    supervised.hears("STOPPING=1")
    assert supervised.process.wait(DEADLINE) == 0
    assert "MAINPID" not in "\n".join(supervised.told)


def test_messages_of_others_are_not_passed_on(run: Any) -> None:
    """Any process may write to an abstract socket."""
    supervised = run("note(os.environ['NOTIFY_SOCKET']); tell('STATUS=mine'); time.sleep(60)", manager=True)
    until(supervised.notes, "up")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.sendto(b"STATUS=theirs", "\0" + supervised.notes()[0][1:])
    supervised.hears("STATUS=mine")
    os.kill(supervised.started(1), signal.SIGKILL)
    supervised.started(2)
    supervised.hears("STATUS=mine")
    assert "STATUS=theirs" not in supervised.told


def test_a_command_that_is_gone_is_tried_again(tmp_path: Path) -> None:
    """As while a link is being switched."""
    command = tmp_path / "server"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-P", "-m", "btfeed.supervisor", str(command)], stderr=log)
    until(lambda: "can't start the server" in (tmp_path / "log").read_text(), "said")
    command.write_text("#!/bin/sh\nexit 2\n")
    command.chmod(0o755)
    assert process.wait(DEADLINE) == 2


def test_a_line_of_its_log_is_as_those_of_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    """One JSON object."""
    slot.log("info", "server started", pid=1)
    line = json.loads(capfd.readouterr().err)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"pid": 1, "event": "server started", "level": "info"}
