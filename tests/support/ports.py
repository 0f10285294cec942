"""Ports for servers that are told theirs before they listen, some of them many seconds before.

The kernel may give a port that it chose itself to the next who asks as soon as it is closed, so a server that takes long to
start could find another one on it. These ports are none that the kernel chooses, and no two test processes get the same.
"""

import fcntl
import os
import random
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

FIRST, LAST = 12_000, 65_535
"""Below are well-known servers, and ports that browsers refuse to open."""
KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Says which ports the kernel chooses from. If those are nearly all, it must do without others."""
BLOCK = 64
"""How many ports a process reserves at a time."""


def free_port() -> int:
    """A port on which nothing listens, and which no other call returns, in this process or in another one. Thread-safe."""
    global _reserved
    with _lock:
        if _reserved[0] != os.getpid():  # a fork must not use its parent's
            _reserved = (os.getpid(), _ports())
        port = next((port for port in _reserved[1] if _is_free(port)), None)
    assert port, f"no port between {FIRST} and {LAST} is left"
    return port


def _ports() -> Iterator[int]:
    """The ports of blocks that this process reserves until it ends."""
    lowest, highest = map(int, KERNEL.read_text().split()) if KERNEL.exists() else (49_152, LAST)
    blocks = [range(first, first + BLOCK) for first in range(FIRST, LAST - BLOCK, BLOCK)]
    blocks = [block for block in blocks if block[-1] < lowest or block[0] > highest] or blocks
    random.SystemRandom().shuffle(blocks)
    folder = Path(tempfile.gettempdir()) / f"btfeed-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for block in blocks:
        descriptor = os.open(folder / str(block[0]), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the process ends
        except BlockingIOError:
            os.close(descriptor)
            continue
        yield from block


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


_reserved: tuple[int, Iterator[int]] = (0, iter(()))
_lock = threading.Lock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
