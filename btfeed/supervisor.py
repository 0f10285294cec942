"""Keeps servers running and holds their sockets: what `serve --supervise` and `receive --workers` become.

    python -P -m btfeed.supervisor COMMAND...

It has the listening sockets as file descriptors 3 and up (inherited.py) and starts COMMAND, which gets the same ones. It
never accepts a connection. While there is no server, connections wait in the sockets' backlog.

    SIGTERM, SIGINT  stop the server, and end with its exit status
    SIGHUP           passed on to each server, once it is ready: it reloads its configuration
    SIGUSR2          start COMMAND again, which may be another version by then, and let it take over from the server
    SIGCHLD          a server that ended by itself is started again. Orphans are reaped, in case this is a container's PID 1

There may be several servers at the same time, each in a slot of its own (slot.py). Then names of the sockets have the
number of the slot at their end, as in receiver@1, and a server gets only those of its slot, under the names without it.
What has no number is for one more server. BTFEED_WORKER tells each which it is. Signals are for all of them.

A server that is to take over starts beside the old one and prepares itself. When it says so, the old one is told to stop,
and when that has ended or released everything, the new one goes on. If it ends or hangs before, the old one stays.

The supervisor outlives many servers of different versions. Therefore it only imports the standard library, and speaks
systemd's protocols with them, LISTEN_FDS and sd_notify(3). Its only additions are in notify.py: keep them as they are.
If it is killed, its servers notice, and stop.
Messages of the server are passed on to a service manager, if there is one, whose main process the supervisor is.
"""

import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress

from btfeed import notify
from btfeed.notify import WORKERS
from btfeed.slot import FIRST, SIGNALS, Slot, log

WATCHDOG = 60.0
"""Seconds after which a server that does not send WATCHDOG=1 is killed, unless the service manager sets this."""
PASSED_ON = {"READY", "RELOADING", "MONOTONIC_USEC", "STATUS", "WATCHDOG", "EXTEND_TIMEOUT_USEC"}
"""What the service manager is told. Not STOPPING, unless the supervisor itself is stopping, and not MAINPID."""
CREDENTIALS = socket.CMSG_SPACE(12)
"""Bytes of ancillary data with the pid, uid and gid of a sender."""


class Supervisor:
    """Runs `command` until it is told to stop. It is the host of its slots, see slot.py."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self._on_terminal = os.isatty(2)
        self._manager = os.environ.get("NOTIFY_SOCKET", "")
        microseconds = os.environ.get("WATCHDOG_USEC", "") if self._manager else ""
        self.watchdog = int(microseconds) / 1e6 if microseconds else WATCHDOG
        self.stopping = self.was_ready = False
        self._slots = self._create_slots(os.environ.get("LISTEN_FDNAMES", ""))
        self._next_ping = 0.0
        self._messages = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._messages.bind("")  # a free abstract name
        self._messages.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.address = f"@{self._messages.getsockname()[1:].decode()}"

    def _create_slots(self, names: str) -> list[Slot]:
        """names: the value of LISTEN_FDNAMES."""
        numbered = [name.partition("@")[::2] for name in names.split(":")]
        numbers = list(dict.fromkeys(number for _, number in numbered))
        if numbers == [""]:
            return [Slot(self, [], [], "")]
        return [
            Slot(
                self,
                [descriptor for descriptor, (_, each) in enumerate(numbered, FIRST) if each == number],
                [name for name, each in numbered if each == number],
                f"{number or 0}/{len(numbers) - ('' in numbers)}",
            )
            for number in numbers
        ]

    def run(self) -> int:
        """Returns the exit status: of several servers, the first that is not 0."""
        woken, wakes = socket.socketpair()
        wakes.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        for handled in SIGNALS:
            signal.signal(handled, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # those that were held until now, see early.py
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        poll.register(self._messages, select.POLLIN)
        while True:
            self._do_what_is_due(time.monotonic())
            if self.stopping and not any(slot.servers for slot in self._slots):
                for handled in SIGNALS:  # Python would end its own handlers before the process has ended
                    signal.signal(handled, signal.SIG_IGN)
                _remove_workers(os.environ.get(WORKERS, ""))
                return next((slot.status for slot in self._slots if slot.status), 0)
            ready = {descriptor for descriptor, _ in poll.poll(self._milliseconds())}
            if self._messages.fileno() in ready:
                self._read_message()
            if woken.fileno() in ready:
                for number in woken.recv(4096):
                    self._on_signal(number)

    def _do_what_is_due(self, now: float) -> None:
        for slot in self._slots:
            slot.do_what_is_due(now)
        if not self._is_ready() and now >= self._next_ping:  # no server does it at the moment
            self._next_ping = now + self.watchdog / 2
            self._tell("WATCHDOG=1")

    def _milliseconds(self) -> float:
        """Until something is due."""
        due = [each for slot in self._slots for each in slot.due()]
        due += [] if self._is_ready() else [self._next_ping]
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1

    def _is_ready(self) -> bool:
        return any(slot.is_ready for slot in self._slots)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._tell("STOPPING=1")
            self._stop()
        elif number == signal.SIGHUP and self._on_terminal and not os.isatty(2):
            self._on_signal(signal.SIGTERM)  # the terminal was closed
        elif number == signal.SIGHUP:
            for slot in self._slots:
                slot.reload()
        elif number == signal.SIGUSR2 and not self.stopping:
            if self._is_ready():
                self._tell("STATUS=starting a server that takes over")
            for slot in self._slots:
                slot.restart()

    def _stop(self) -> None:
        self.stopping = True
        for slot in self._slots:
            slot.stop()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for slot in self._slots:
                for server in slot.servers:
                    if pid == server.pid:
                        slot.on_end(server, os.waitstatus_to_exitcode(status))
                        if slot.wrong:
                            self._stop()

    # Messages

    def _read_message(self) -> None:
        message, ancillary, _, _ = self._messages.recvmsg(4096, CREDENTIALS)
        sender = next((int.from_bytes(data[:4], sys.byteorder) for _, _, data in ancillary), 0)
        fields = dict(line.partition("=")[::2] for line in message.decode(errors="replace").splitlines())
        for slot in self._slots:
            for server in slot.servers:
                if server.pid == sender and slot.hear(server, fields):
                    self._tell("\n".join(f"{key}={value}" for key, value in fields.items() if key in PASSED_ON))

    def _tell(self, message: str) -> None:
        """Tell the service manager, if there is one."""
        if not self._manager or not message:
            return
        try:
            notify.send(self._manager, message)
        except OSError as error:
            log("warning", "can't notify the service manager", error=str(error))


def _remove_workers(directory: str) -> None:
    """Remove the directory with the workers' admin sockets, if there is one."""
    if not directory:
        return
    with suppress(OSError):
        with os.scandir(directory) as entries:
            for entry in entries:
                os.unlink(entry.path)  # noqa: PTH108 - pathlib takes long to import
        os.rmdir(directory)  # noqa: PTH106


if __name__ == "__main__":
    sys.exit(Supervisor(sys.argv[1:]).run())
