"""Why an address can't be listened on: which setting, which process, and what to do."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from btfeed.app.in_use import explain, holder_of, naming, program_of
from tests.support.harness import DEADLINE
from tests.support.held import keeping
from tests.support.ports import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_process_that_has_the_port_is_named(host: str) -> None:
    """With its id and the name of its program."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        holder = holder_of(taken.getsockname()[1])
    assert holder
    assert str(holder).startswith(f"process {os.getpid()} (")
    assert len(str(holder)) < 150
    assert not holder.keeps


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/usr/bin/python3", "-m", "btfeed.commands.main", "capture", "--forward", "http://u:pw@host"], "btfeed capture"),
        (["/opt/venv/bin/python", "/opt/venv/bin/btfeed", "serve", "-c", "secret.toml"], "btfeed serve"),
        (["/opt/venv/bin/python", "/opt/venv/bin/btfeed", "--secret"], "btfeed"),
        (["nginx: master --password pw"], "program"),
        (["/usr/bin/curl", "http://u:pw@host", "serve"], "program"),
    ],
)
def test_arguments_of_the_other_process_are_not_shown(words: list[str], shown: str, tmp_path: Path) -> None:
    """They may be secrets. Of btfeed itself, the command is."""
    (tmp_path / "comm").write_text("program\n")
    (tmp_path / "cmdline").write_text("\0".join([*words, ""]))
    assert program_of(tmp_path) == shown


def test_nothing_is_named_if_nothing_listens() -> None:
    """Nor for a connection from that port."""
    assert holder_of(free_port()) is None
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as client:
        assert holder_of(client.getsockname()[1]) is None


def test_a_process_of_another_user_is_not_named() -> None:
    """Its files can't be read, which is no failure. The message says how to find it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = f"""if True:
            import os
            from btfeed.app.in_use import explain
            if os.getuid() == 0:
                os.setuid(65534)
            print(explain("127.0.0.1:{port}", OSError({errno.EADDRINUSE}, "")))
        """
        command = [sys.executable, "-c", program]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True)
    if os.getuid() == 0:
        assert ran.stdout == (
            f"can't listen on 127.0.0.1:{port}: it is in use by another program, which `ss -ltnp` shows to root. "
            "Unless that holds it for btfeed, as systemd does, stop it, or choose another port\n"
        )
    else:
        assert f"process {os.getpid()} (" in ran.stdout


@pytest.mark.parametrize(
    ("number", "what"),
    [(errno.EACCES, "permission denied: choose a port of 1024 or more"),
     (errno.EADDRNOTAVAIL, "it is not an address of this machine"), (errno.ENOBUFS, "No buffer space available")],
)  # fmt: skip
def test_other_errors_say_what_to_do(number: int, what: str) -> None:
    """Each in words."""
    assert explain("10.0.0.1:80", OSError(number, "")).startswith(f"can't listen on 10.0.0.1:80: {what}")


def test_the_setting_is_named() -> None:
    """Unless the error is of a file, whose message says where it comes from."""
    with (
        pytest.raises(OSError, match=r"^receiver.listen: can't listen on \[::1\]:1: perm"),
        naming("receiver.listen", "[::1]:1"),
    ):
        raise PermissionError(errno.EACCES, "")
    with pytest.raises(OSError, match=r"^certificate x: broken$"), naming("receiver.listen", "127.0.0.1:1"):
        raise OSError("certificate x: broken")


@pytest.mark.parametrize("name", ["systemd", "supervisor"])
def test_what_holds_a_port_for_the_server_is_not_to_be_stopped(name: str, tmp_path: Path) -> None:
    """Connections wait in it."""
    with socket.create_server(("127.0.0.1", 0)) as taken, keeping(tmp_path, name, taken) as pid:
        said = explain(f"127.0.0.1:{taken.getsockname()[1]}", OSError(errno.EADDRINUSE, ""))
        assert f"process {pid} (" in said
        assert "leave it running" in said
