"""One place of a supervisor (supervisor.py): the server that runs there, and the one that takes over from it.

Imports only the standard library, as the supervisor does.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from typing import NoReturn, Protocol

from btfeed.notify import PREPARED, RELEASED, RESTART_FAILED, SUPERVISOR, TAKE_OVER, WORKER

BACKOFF, MAX_BACKOFF = 1.0, 10.0
"""Seconds until a server that ended is started again; doubled while none becomes ready. AppMon waits 10 s for an answer."""
PREPARE_TIMEOUT = 60.0
"""Seconds that a server has to prepare itself before it takes over."""
STOP_TIMEOUT = 60.0
"""Seconds that a server has to end before it is killed, when another one takes over."""
ABORT_TIMEOUT = 5.0
"""Seconds that a server has to log where it hangs."""
CONFIGURATION = 2
"""Exit status of a server whose configuration is wrong."""
FIRST = 3
"""The first file descriptor of inherited sockets, see inherited.py."""
NEVER = float("inf")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


class Server:
    """A process that runs the command.

    kill_at   when it is killed, by time.monotonic
    heard_at  when it sent a message
    reloads   it is to reload when it is ready, since it may have read its configuration before that changed
    restarts  it was told to end so that another one can start
    lines     the end of a pipe from which it reads lines, and notices that the supervisor is gone
    """

    def __init__(self, pid: int, lines: int, kill_at: float = NEVER) -> None:
        self.pid = pid
        self._lines = lines
        self.ready = self.reloads = self.restarts = False
        self.kill_at = kill_at
        self.heard_at = 0.0

    def due(self, watchdog: float) -> float:
        """When something has to be done about it."""
        return min(self.kill_at, self.heard_at + watchdog) if self.ready else self.kill_at

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)  # it is not reaped yet, so the pid is still its own

    def tell(self, line: str) -> None:
        with suppress(OSError):  # it does not read, as an older version, or has ended
            os.write(self._lines, f"{line}\n".encode())

    def close(self) -> None:
        os.close(self._lines)


class Host(Protocol):
    """What a slot needs of its supervisor.

    command    what a server runs
    watchdog   seconds after which a server that does not send WATCHDOG=1 is killed
    address    where servers send their messages: the value of NOTIFY_SOCKET
    stopping   no server is to be started any more
    was_ready  some server has been ready
    """

    command: list[str]
    watchdog: float
    address: str
    stopping: bool
    was_ready: bool


class Slot:
    """One server and its successors.

    sockets  the file descriptors that it gets, all of those from FIRST on if it is the only slot
    names    what they are, for LISTEN_FDNAMES
    worker   the value of BTFEED_WORKER for it; empty if it is the only slot
    status   exit status of the last server; None while there is one, or will be
    wrong    a server said that its configuration is wrong, before any was ready
    """

    def __init__(self, host: Host, sockets: list[int], names: list[str], worker: str) -> None:
        self._host = host
        self._sockets = sockets
        self._names = names
        self._worker = worker
        self._labels = {"worker": worker} if worker else {}  # in the log
        self.server: Server | None = None
        self._next: Server | None = None  # which is to take over from it
        self._leaving: Server | None = None  # from which another one has taken over
        self._gate = 0  # the end of a pipe that is closed when the next server may go on; 0 if there is none
        self._again = False
        self._start_at = 0.0
        self._backoff = BACKOFF
        self.status: int | None = None
        self.wrong = False

    @property
    def servers(self) -> list[Server]:
        return [server for server in (self.server, self._next, self._leaving) if server]

    @property
    def is_ready(self) -> bool:
        return self.server is not None and self.server.ready

    # Time

    def do_what_is_due(self, now: float) -> None:
        if not self.server and not self._host.stopping and now >= self._start_at:
            self.server = self._start()
        if self._again and self.is_ready and not (self._next or self._leaving or self._host.stopping):
            self._again = False
            self.restart()
        for server in self.servers:
            if now >= server.kill_at:
                self._log("error", "server does not end, killing it", server)
                server.kill_at = NEVER
                server.signal(signal.SIGKILL)
            elif now >= server.due(self._host.watchdog):
                self._log("error", "server does not answer, killing it", server, seconds=self._host.watchdog)
                server.ready = False
                server.kill_at = now + ABORT_TIMEOUT
                server.signal(signal.SIGABRT)

    def due(self) -> list[float]:
        """When something is due."""
        due = [server.due(self._host.watchdog) for server in self.servers]
        return due if self.server or self._host.stopping else [*due, self._start_at]

    # Servers

    def _start(self, gate: int = 0) -> Server:
        """gate: what it waits for the end of, before it takes over."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if not pid:
            self._become_server(gate, read)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(read)
        log("info", "server started", pid=pid, command=" ".join(self._host.command), **self._labels)
        return Server(pid, write)

    def _start_next(self) -> None:
        gate, self._gate = os.pipe()
        self._next = self._start(gate)
        self._next.kill_at = time.monotonic() + PREPARE_TIMEOUT
        os.close(gate)

    def _become_server(self, gate: int, lines: int) -> NoReturn:
        """In the new process."""
        try:
            variables = {SUPERVISOR: str(lines)}
            os.set_inheritable(lines, True)
            if gate:
                os.set_inheritable(gate, True)
                variables[TAKE_OVER] = str(gate)
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            pid = str(os.getpid())
            variables |= {"LISTEN_PID": pid, "NOTIFY_SOCKET": self._host.address}
            variables |= {"WATCHDOG_PID": pid, "WATCHDOG_USEC": str(int(self._host.watchdog * 1e6))}
            if self._worker:
                variables |= self._take_sockets() | {WORKER: self._worker}
            command = self._host.command
            os.execvpe(command[0], command, os.environ | variables)  # noqa: S606 - the user's own command
        except BaseException as error:  # noqa: BLE001 - must not return into the supervisor
            log("error", "can't start the server", command=" ".join(self._host.command), error=str(error), **self._labels)
        finally:
            os._exit(1)

    def _take_sockets(self) -> dict[str, str]:
        """Make the slot's own sockets the first ones, and close those of others. Returns the variables for them."""
        copies = [os.dup(descriptor) for descriptor in self._sockets]  # not inherited
        for descriptor, copy in enumerate(copies, FIRST):
            os.dup2(copy, descriptor)
        os.closerange(FIRST + len(copies), FIRST + int(os.environ["LISTEN_FDS"]))
        return {"LISTEN_FDS": str(len(copies)), "LISTEN_FDNAMES": ":".join(self._names)}

    # What happens

    def stop(self) -> None:
        for server in self.servers:
            server.signal(signal.SIGKILL if server is self._next else signal.SIGTERM)  # it has begun nothing

    def reload(self) -> None:
        for each in (self.server, self._next):
            if each and each.ready:
                each.signal(signal.SIGHUP)
            elif each:
                each.reloads = True

    def restart(self) -> None:
        """Start another server, which takes over."""
        if self._next or self._leaving:
            self._again = True  # the one that is under way may have begun too early
        elif self.is_ready:
            log("info", "starting a server that takes over", **self._labels)
            self._start_next()
        else:  # there is none, or one that may be hanging
            self._start_at, self._backoff = 0.0, BACKOFF
            if self.server:
                self.server.restarts = True
                self.server.kill_at = time.monotonic() + STOP_TIMEOUT
                self.server.signal(signal.SIGTERM)

    def hear(self, server: Server, fields: dict[str, str]) -> bool:
        """A server of this slot has sent a message. Whether it concerns the service manager, too."""
        server.heard_at = time.monotonic()
        if server is self._next and PREPARED in fields and self.server:
            server.kill_at = NEVER
            self.server.kill_at = time.monotonic() + STOP_TIMEOUT
            self.server.signal(signal.SIGTERM)
        if server is self.server and RELEASED in fields and self._next and not self._host.stopping:
            self._take_over()
        if "READY" in fields:
            self._on_ready(server)
        return server is self.server

    def _on_ready(self, server: Server) -> None:
        server.ready = self._host.was_ready = True
        self._backoff = BACKOFF
        if server.reloads:
            server.reloads = False
            server.signal(signal.SIGHUP)

    def _take_over(self) -> None:
        """The next server is the server from now on, and may go on."""
        self._leaving, self.server, self._next = self.server, self._next, None
        self._close_gate()

    def _close_gate(self) -> None:
        os.close(self._gate)
        self._gate = 0

    def on_end(self, server: Server, code: int) -> None:
        """One of its servers has ended. code: its exit status, or minus the signal that ended it."""
        server.close()
        reason = f"exit status {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
        level = "info" if code in (0, -signal.SIGTERM) else "error"
        if server is self._leaving:
            self._leaving = None
            self._log(level, "server stopped", server, reason=reason)
        elif server is self._next:
            self._next = None
            self._close_gate()
            if not self._host.stopping:
                self._log("error", "new server ended before it could take over, the old one goes on", server, reason=reason)
                if self.server:
                    self.server.tell(f"{RESTART_FAILED}={reason}")
        elif self._next and not self._host.stopping:
            self._take_over()
            self._leaving = None
            self._log(level, "server stopped", server, reason=reason)
        elif server.restarts and not self._host.stopping:
            self.server = None
            self._log(level, "server stopped", server, reason=reason)
        else:
            self.server = None
            self._on_end_of_last(server, code, reason)

    def _on_end_of_last(self, server: Server, code: int, reason: str) -> None:
        if self._host.stopping:
            self.status = code if code >= 0 else 0 if code == -signal.SIGTERM else 128 - code
        elif code == CONFIGURATION and not self._host.was_ready:
            self.status, self.wrong = code, True  # it has said why
        else:
            self._log("error", "server ended, starting it again", server, reason=reason, seconds=self._backoff)
            self._start_at = time.monotonic() + self._backoff
            self._backoff = min(2 * self._backoff, MAX_BACKOFF)

    def _log(self, level: str, event: str, server: Server, **fields: object) -> None:
        log(level, event, pid=server.pid, **fields, **self._labels)


def log(level: str, event: str, **fields: object) -> None:
    """One line to stderr, as the server writes it there."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06}Z"
    if sys.stderr.isatty():
        line = " ".join([moment, f"[{level}]", event, *(f"{name}={value}" for name, value in fields.items())])
    else:
        line = json.dumps({**fields, "event": event, "level": level, "timestamp": moment})
    with suppress(OSError):  # if the log is gone, the server goes on
        os.write(2, f"{line}\n".encode(errors="replace"))
