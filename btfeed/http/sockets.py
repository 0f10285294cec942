"""What asyncio does not say of a connected socket."""

import fcntl
import termios
from array import array
from typing import Any


def host_of(address: tuple[Any, ...]) -> str:
    """The host of an address, "" if it has none. An IPv4 client of a socket on "::" has its IPv4 address."""
    return str(address[0]).removeprefix("::ffff:") if address else ""


def has_unread(connected: int) -> bool:
    """Whether the machine has received data on the socket with that file descriptor that is not read yet."""
    unread = array("i", [0])
    try:
        fcntl.ioctl(connected, termios.FIONREAD, unread)
    except OSError:  # closed
        return False
    return unread[0] > 0
