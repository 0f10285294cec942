"""Sends messages to a service manager, as sd_notify(3) does: one datagram to the socket that NOTIFY_SOCKET names."""

import socket

TAKE_OVER = "BTFEED_TAKE_OVER"
"""Variable of a server that the supervisor starts beside an old one: the file descriptor on which it waits for end of file
when it is prepared to take over."""
PREPARED = "X_BTFEED_PREPARED"
"""Key of the message that it is prepared, so the old one may be stopped."""
RELEASED = "X_BTFEED_RELEASED"
"""Key of the old one's last message: it has released everything, and is about to end."""
SUPERVISOR = "BTFEED_SUPERVISOR"
"""Variable of a server that the supervisor starts: the file descriptor from which it reads lines of KEY=VALUE. Its end of
file means that the supervisor is gone."""
RESTART_FAILED = "RESTART_FAILED"
"""Key of such a line: another server should have taken over, but ended before. The value says how."""
WORKER = "BTFEED_WORKER"
"""Variable of each of several servers: its number, from 1 on, and how many there are, as in 2/4. 0/4 is that which answers
for all of them."""
WORKERS = "BTFEED_WORKERS"
"""Variable of all of them: the directory in which each has the socket of its admin listener, under its number."""
TIMEOUT = 1.0
"""Seconds for a service manager that is slow to read."""


def send(address: str, message: str) -> None:
    """Send lines of KEY=VALUE. address: the value of NOTIFY_SOCKET, a path or an abstract name. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(TIMEOUT)
        sender.sendto(message.encode(), abstract(address))


def abstract(address: str) -> str:
    """The address as the kernel wants it: the names of abstract sockets are written with @, and begin with a zero byte."""
    return f"\0{address[1:]}" if address.startswith("@") else address
