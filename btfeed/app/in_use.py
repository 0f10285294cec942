"""Why a server can't listen on an address, in words: which setting it is, which process has the port, and what to do."""

import errno
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from btfeed.address import host_and_port

_LISTENING = "0A"
"""The state of a listening socket in /proc/net/tcp."""
MAX_COMMAND = 100
"""Characters that are shown of a command line."""
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
        by = f"by {holder}" if holder else "by another program, which `ss -ltnp` shows to root"
        return f"{where}: it is in use {by}. Stop that, or choose another port"
    if error.errno == errno.EACCES:
        return f"{where}: permission denied: {_PRIVILEGED}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: it is not an address of this machine"
    return f"{where}: {os.strerror(error.errno)}"


def holder_of(port: int) -> str | None:
    """The process that listens on a TCP port, as far as this user may see it."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        with suppress(OSError):  # of another user, or gone
            if any(str(link.readlink()) in sockets for link in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                return f"process {process.name} ({command.decode(errors='replace')[:MAX_COMMAND]})"
    return None


def _listening(port: int) -> Iterator[str]:
    """The inodes of the sockets that listen on it, at any address."""
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                _, local, _, state, *rest = line.split()
                if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                    yield rest[5]
