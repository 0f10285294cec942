"""Why a server can't listen on an address, in words: which setting it is, which process has the port, and what to do."""

import errno
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from btfeed.address import host_and_port

_LISTENING = "0A"
"""The state of a listening socket in /proc/net/tcp."""
_MODULE = "btfeed.commands.main"
"""What `python -m` runs."""
_PRIVILEGED = "choose a port of 1024 or more, or give btfeed the capability CAP_NET_BIND_SERVICE"


@contextmanager
def naming(setting: str, address: str) -> Iterator[None]:
    """Lets an OSError of listening say what `explain` says."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ssl.SSLError) or error.errno is None:
            raise
        raise OSError(f"{setting}: {explain(address, error)}") from error


def explain(address: str, error: OSError) -> str:
    """What to do about an error of listening on `address`."""
    where = f"can't listen on {address}"
    if error.errno is None:
        return str(error)
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(host_and_port(address)[1])
        if not holder:
            what = "in use by another program, which `ss -ltnp` shows to root"
            return (
                f"{where}: it is {what}. Unless that holds it for btfeed, as systemd does, stop it, or choose another port"
            )
        if holder.keeps:
            return f"{where}: {holder} holds it for the server that it starts: leave it running, posts may wait there"
        return f"{where}: it is in use by {holder}. Stop that, or choose another port"
    if error.errno == errno.EACCES:
        return f"{where}: permission denied: {_PRIVILEGED}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: it is not an address of this machine"
    return f"{where}: {os.strerror(error.errno)}"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a port. keeps: it does so for a server that it starts: systemd, or a supervisor. runs: that server
    has it, too."""

    pid: int
    program: str
    keeps: bool
    runs: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} ({self.program})"


def holder_of(port: int) -> Holder | None:
    """The process that listens on a TCP port, as far as this user may see it. Of several, the one that keeps it."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    found: list[Holder] = []
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        with suppress(OSError):  # of another user, or gone
            if not sockets.isdisjoint(_open_files(process)):
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                keeps = (process / "comm").read_text() == "systemd\n" or "btfeed.supervisor" in words
                found.append(Holder(int(process.name), program_of(process), keeps))
    found.sort(key=lambda holder: not holder.keeps)
    return replace(found[0], runs=len(found) > 1) if found else None


def program_of(process: Path) -> str:
    """The program of this directory in /proc, and its command if it is btfeed. Other arguments may be secrets."""
    name = (process / "comm").read_text(errors="replace").strip()
    words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    own = next((at for at, word in enumerate(words[:3]) if Path(word).name == "btfeed" or word == _MODULE), None)
    if own is None:
        return name
    command = words[own + 1] if own + 1 < len(words) else ""
    return f"btfeed {command}" if re.fullmatch("[a-z-]+", command) and command[0] != "-" else "btfeed"


def _open_files(process: Path) -> Iterator[str]:
    for link in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile; the process may have the socket all the same
            yield str(link.readlink())


def _listening(port: int) -> Iterator[str]:
    """The inodes of the sockets that listen on it, at any address."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                _, local, _, state, *rest = line.split()
                if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                    yield rest[5]
