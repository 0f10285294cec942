"""Sockets that another process holds: which are taken, and how they are passed on."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from btfeed import inherited
from btfeed.inherited import VARIABLES, take
from tests.support.harness import DEADLINE

PASS_ON = """
import os, socket, sys
from btfeed.inherited import pass_on
made = {name: [socket.create_server(("127.0.0.1", 0))] for name in ("receiver", "admin")}
made["receiver"].append(socket.create_server(("127.0.0.2", 0)))
program = [sys.executable, "-c", sys.argv[1]]
os.execve(program[0], program, os.environ | pass_on(made))
"""
TAKE = """
import os, subprocess, sys
from btfeed.inherited import take
for name, sockets in take().items():
    print(name, *(each.getsockname()[0] for each in sockets), *(each.getblocking() for each in sockets))
sys.stdout.flush()
leaked = "import os; print(sum('socket' in os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[:-1]))"
subprocess.run([sys.executable, "-c", leaked + "; print('LISTEN_FDS' in os.environ)"], close_fds=False)
"""


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Two sockets with adjacent file descriptors, the first of which stands for 3."""
    pairs = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    first = 200
    for descriptor, each in enumerate(pairs, first):
        os.dup2(each.fileno(), descriptor)
    monkeypatch.setattr(inherited, "FIRST", first)
    yield pairs
    for each in pairs:
        each.close()
    for descriptor in (first, first + 1):
        with suppress(OSError):  # what has taken it is closed
            os.close(descriptor)


def environment(number: int, names: str = "", pid: int | None = None) -> dict[str, str]:
    return {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(number), "LISTEN_FDNAMES": names}


def close(taken: dict[str, list[socket.socket]]) -> None:
    for several in taken.values():
        for each in several:
            each.close()


def test_a_program_gets_what_was_passed_on() -> None:
    """With their names, several to a name. A program that it starts gets neither the sockets nor the variables."""
    result = subprocess.run(
        [sys.executable, "-c", PASS_ON, TAKE], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert result.stdout.splitlines() == [
        "receiver 127.0.0.1 127.0.0.2 False False", "admin 127.0.0.1 False", "0", "False",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", "unknown", "btfeed.socket", "receiver"])
def test_a_single_socket_is_the_receivers(held: list[socket.socket], name: str) -> None:
    """If nobody named it: systemd gives it the name of the unit. The variables are gone afterwards."""
    variables = environment(1, name) | {"OTHER": "1"}
    taken = take(variables)
    assert {key: [each.getsockname() for each in sockets] for key, sockets in taken.items()} == {
        "receiver": [held[0].getsockname()]
    }
    assert variables == {"OTHER": "1"}
    close(taken)


def test_a_single_socket_may_be_the_admin_listeners(held: list[socket.socket]) -> None:
    """If it is named so."""
    taken = take(environment(1, "admin"))
    assert list(taken) == ["admin"]
    close(taken)


@pytest.mark.parametrize("variables", [{}, environment(1, pid=1), {"LISTEN_FDS": "1"}])
def test_sockets_of_another_process_are_left_alone(held: list[socket.socket], variables: dict[str, str]) -> None:
    """That is what LISTEN_PID is for. The variables go all the same."""
    variables = dict(variables)
    assert take(variables) == {}
    assert not variables.keys() & set(VARIABLES)


@pytest.mark.parametrize(
    ("number", "names", "wrong"), [(2, "receiver:other", "other"), (2, "", ""), (1, "recevier", "recevier")]
)
def test_names_that_stand_for_nothing_are_refused(held: list[socket.socket], number: int, names: str, wrong: str) -> None:
    """The error says which, and where to write it. Several sockets need names."""
    with pytest.raises(OSError, match=rf"named '{wrong}': name it receiver or admin, as with FileDescriptorName="):
        take(environment(number, names))


def test_what_is_no_tcp_socket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a datagram socket, and a number that is none."""
    monkeypatch.setattr(inherited, "FIRST", 200)
    with Path(os.devnull).open() as file, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for source, what in ((file, "200 is not a socket: Socket operation"), (datagrams, "200 is not a TCP socket")):
            os.dup2(source.fileno(), 200)
            with pytest.raises(OSError, match=what):
                take(environment(1))
    with pytest.raises(OSError, match="LISTEN_FDS is 'x'"):
        take({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"})
    with suppress(OSError):  # what has taken it is closed
        os.close(200)
