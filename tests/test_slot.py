"""Several servers of one supervisor, each in its slot, with small programs in place of servers."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from btfeed import slot
from btfeed.notify import RELEASED
from tests.support.harness import DEADLINE, until
from tests.support.supervised import starting

HOLD = """
import os, socket, sys
from btfeed.inherited import pass_on
names = ("receiver@1", "admin@1", "receiver@2", "admin@2", "admin")
made = {name: [socket.create_server(("127.0.0.1", 0))] for name in names}
os.environ.update(pass_on(made))
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a program that holds the sockets of two servers, and of one that answers for both."""
WHICH = """
which = os.environ["BTFEED_WORKER"]
names = os.environ["LISTEN_FDNAMES"].split(":")
ports = [socket.socket(fileno=3 + each).getsockname()[1] for each in range(len(names))]
note(f"{which} {' '.join(names)} {' '.join(map(str, ports))} {len(names) == int(os.environ['LISTEN_FDS'])}")
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    with starting(tmp_path) as start:
        yield start


def test_several_servers_have_each_its_own_sockets(run: Any) -> None:
    """One that dies is started again with the same ones, and the others go on. A reload, a restart and a stop are for
    all."""
    supervised = run(
        WHICH
        + """
leaked = os.path.exists(f"/proc/self/fd/{3 + len(names)}") and "socket" in os.readlink(f"/proc/self/fd/{3 + len(names)}")
signal.signal(signal.SIGHUP, lambda *_: note(f"{which} reloaded"))
take_over()
until_term(lambda: note(f"{which} ends"))
tell("READY=1")
note(f"{which} is {os.getpid()} {leaked}")
idle()
""",
        prefix=[sys.executable, "-c", HOLD], manager=True,
    )  # fmt: skip

    def pids(which: str) -> list[int]:
        return [int(note.split()[2]) for note in supervised.notes() if note.startswith(f"{which} is ")]

    def each_has(servers: int) -> bool:
        return all(len(pids(which)) == servers for which in ("0/2", "1/2", "2/2"))

    until(lambda: each_has(1), "three servers")
    supervised.hears("READY=1")
    os.kill(pids("2/2")[0], signal.SIGKILL)
    until(lambda: len(pids("2/2")) == 2, "started again")
    until(lambda: len(supervised.events("server started")) == 4, "said")
    (ended,) = supervised.events("server ended, starting it again")
    assert (ended["worker"], ended["seconds"]) == ("2/2", 1.0)
    supervised.process.send_signal(signal.SIGHUP)
    until(lambda: all(f"{number}/2 reloaded" in supervised.notes() for number in (0, 1, 2)), "reloaded")
    supervised.process.send_signal(signal.SIGUSR2)
    until(lambda: (len(pids("0/2")), len(pids("1/2")), len(pids("2/2"))) == (2, 2, 3), "other servers")
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(DEADLINE) == 0
    assert [supervised.notes().count(f"{number}/2 ends") for number in (0, 1, 2)] == [2, 2, 2]
    begun = {note for note in supervised.notes() if note.endswith("True")}
    assert len(begun) == 3  # with the same ports each time
    names = {note.split()[0]: [word for word in note.split()[1:-1] if not word.isdigit()] for note in begun}
    assert names == {"0/2": ["admin"], "1/2": ["receiver", "admin"], "2/2": ["receiver", "admin"]}
    assert len({port for note in begun for port in note.split() if port.isdigit()}) == 5
    assert not [note for note in supervised.notes() if " is " in note and not note.endswith("False")]


@pytest.mark.parametrize("fault", [1, 2])
def test_a_wrong_configuration_of_one_server_ends_all(run: Any, fault: int) -> None:
    """If none was ready before. Its exit status is that of the supervisor."""
    supervised = run(
        f"""
        if os.environ["BTFEED_WORKER"] == "{fault}/2":
            sys.exit(2)
        time.sleep(60)
        """,
        prefix=[sys.executable, "-c", HOLD],
    )
    assert supervised.process.wait(DEADLINE) == 2
    assert supervised.events("server ended, starting it again") == []


def test_a_restart_replaces_a_server_that_still_starts_at_once(run: Any) -> None:
    """It may hang, or be of the old version. Nothing is wrong if it ends then, whatever its exit status."""
    supervised = run(
        """
        if not os.path.exists("new"):
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
            note("starts")
            idle()
        serve()
        """,
        manager=True,
    )
    supervised.noted("starts")
    (supervised.directory / "new").touch()
    supervised.process.send_signal(signal.SIGUSR2)
    supervised.noted("starts", "up")
    supervised.hears("READY=1")
    (stopped,) = supervised.events("server stopped")
    assert stopped["reason"] == "exit status 2"
    assert supervised.events("server ended, starting it again") == []


def test_nothing_takes_over_during_a_stop() -> None:
    """The next server was killed, but has not ended yet, when the old one says that it has released everything."""

    class Host:
        command: list[str] = []
        watchdog, address = 60.0, ""
        stopping = was_ready = True

    found = slot.Slot(Host(), [], [], "")
    old, new = slot.Server(1, -1), slot.Server(2, -1)
    found.server, found._next = old, new
    assert found.hear(old, {RELEASED: "1"})
    assert found.server is old
