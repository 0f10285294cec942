"""Listening sockets that another process holds for this one: systemd for a socket unit, or the supervisor (supervisor.py).

The protocol is that of sd_listen_fds(3): the sockets are file descriptors 3 and up, LISTEN_FDS says how many,
LISTEN_FDNAMES what each is for, and LISTEN_PID which process they are meant for. The admin listener's may be a Unix socket:
those of `btfeed receive --workers` are. As the holder keeps them open, new
connections wait in their backlog while one process ends and the next one starts.
"""

import fcntl
import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence

FIRST = 3
RECEIVER, ADMIN = "receiver", "admin"
"""Names of sockets: what listens on them."""
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")

Sockets = Mapping[str, Sequence[socket.socket]]
"""Listening sockets by name. A host may stand for several addresses, each with a socket of its own."""


def take(environment: MutableMapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """The sockets that this process was given. Raises OSError if they can't be used.

    No program that this one starts gets them: the variables are removed, and the descriptors are closed on exec.
    """
    pid, number, names, _ = (environment.pop(name, "") for name in VARIABLES)
    if pid != str(os.getpid()):
        return {}
    if not number.isdecimal():
        raise OSError(f"LISTEN_FDS is {number!r}: it must be a number of sockets")
    given = names.split(":") if names else []
    named = [_name(given[index] if index < len(given) else "", number == "1") for index in range(int(number))]
    taken: dict[str, list[socket.socket]] = {}
    for descriptor, name in enumerate(named, FIRST):
        taken.setdefault(name, []).append(_socket(descriptor, name))
    return taken


def _name(given: str, alone: bool) -> str:
    """What a socket is for. A single one that was given no name, but for that of its unit, is the receiver's."""
    if given in (RECEIVER, ADMIN):
        return given
    if alone and (given in ("", "unknown") or given.endswith(".socket")):
        return RECEIVER
    raise OSError(
        f"an inherited socket is named {given!r}: name it {RECEIVER} or {ADMIN}, "
        "as with FileDescriptorName= in a systemd socket unit"
    )


def _socket(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        found = socket.socket(fileno=descriptor)
    except OSError as error:
        raise OSError(f"inherited file descriptor {descriptor} is not a socket: {error.strerror}") from None
    families = (socket.AF_INET, socket.AF_INET6, *([socket.AF_UNIX] if name == ADMIN else []))
    if found.type != socket.SOCK_STREAM or found.family not in families:
        found.close()
        raise OSError(f"inherited file descriptor {descriptor} is not a TCP socket: use ListenStream= with a port")
    found.setblocking(False)
    return found


def pass_on(sockets: Sockets) -> dict[str, str]:
    """Make `sockets` the ones that a program gets which now replaces this one by exec. Returns the variables for it.

    This overwrites the file descriptors from 3 on, so do nothing else in between.
    """
    named = [(name, each) for name, several in sockets.items() for each in several]
    behind = FIRST + len(named)
    copies = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD_CLOEXEC, behind) for _, each in named]
    for descriptor, copy in enumerate(copies, FIRST):
        os.dup2(copy, descriptor)  # inheritable
    return {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(named)),
        "LISTEN_FDNAMES": ":".join(name for name, _ in named),
    }
