"""Keeps a server running and holds its listening sockets: what `btfeed serve --supervise` becomes.

    python -P -m btfeed.supervisor COMMAND...

It has the listening sockets as file descriptors 3 and up (inherited.py) and starts COMMAND, which gets the same ones. It
never accepts a connection. While there is no server, connections wait in the sockets' backlog.

    SIGTERM, SIGINT  stop the server, and end with its exit status
    SIGHUP           passed on to each server, once it is ready: it reloads its configuration
    SIGUSR2          start COMMAND again, which may be another version by then, and let it take over from the server
    SIGCHLD          a server that ended by itself is started again. Orphans are reaped, in case this is a container's PID 1

A server that is to take over starts beside the old one and prepares itself. When it says so, the old one is told to stop,
and when that has ended or released everything, the new one goes on. If it ends or hangs before, the old one stays.

The supervisor outlives many servers of different versions. Therefore it only imports the standard library, and speaks
systemd's protocols with them, LISTEN_FDS and sd_notify(3). Its only additions are in notify.py: keep them as they are.
If it is killed, its servers notice, and stop.
Messages of the server are passed on to a service manager, if there is one, whose main process the supervisor is.
"""

import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import NoReturn

from btfeed import notify
from btfeed.notify import PREPARED, RELEASED, RESTART_FAILED, SUPERVISOR, TAKE_OVER

BACKOFF, MAX_BACKOFF = 1.0, 10.0
"""Seconds until a server that ended is started again; doubled while none becomes ready. AppMon waits 10 s for an answer."""
PREPARE_TIMEOUT = 60.0
"""Seconds that a server has to prepare itself before it takes over."""
STOP_TIMEOUT = 60.0
"""Seconds that a server has to end before it is killed, when another one takes over."""
WATCHDOG = 60.0
"""Seconds after which a server that does not send WATCHDOG=1 is killed, unless the service manager sets this."""
ABORT_TIMEOUT = 5.0
"""Seconds that a server has to log where it hangs."""
CONFIGURATION = 2
"""Exit status of a server whose configuration is wrong."""
NEVER = float("inf")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)
PASSED_ON = {"READY", "RELOADING", "MONOTONIC_USEC", "STATUS", "WATCHDOG", "EXTEND_TIMEOUT_USEC"}
"""What the service manager is told. Not STOPPING, unless the supervisor itself is stopping, and not MAINPID."""
CREDENTIALS = socket.CMSG_SPACE(12)
"""Bytes of ancillary data with the pid, uid and gid of a sender."""


class Server:
    """A process that runs the command.

    kill_at   when it is killed, by time.monotonic
    heard_at  when it sent a message
    reloads   it is to reload when it is ready, since it may have read its configuration before that changed
    lines     the end of a pipe from which it reads lines, and notices that the supervisor is gone
    """

    def __init__(self, pid: int, lines: int, kill_at: float = NEVER) -> None:
        self.pid = pid
        self._lines = lines
        self.ready = self.reloads = False
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


class Supervisor:
    """Runs `command` until it is told to stop."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._on_terminal = os.isatty(2)
        self._manager = os.environ.get("NOTIFY_SOCKET", "")
        microseconds = os.environ.get("WATCHDOG_USEC", "") if self._manager else ""
        self._watchdog = int(microseconds) / 1e6 if microseconds else WATCHDOG
        self._server: Server | None = None
        self._next: Server | None = None  # which is to take over from it
        self._leaving: Server | None = None  # from which another one has taken over
        self._gate = 0  # the end of a pipe that is closed when the next server may go on; 0 if there is none
        self._was_ready = self._stopping = self._again = False
        self._start_at = self._next_ping = 0.0
        self._backoff = BACKOFF
        self._status: int | None = None  # to end with

    def run(self) -> int:
        """Returns the exit status."""
        woken, wakes = socket.socketpair()
        wakes.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        for handled in SIGNALS:
            signal.signal(handled, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # those that were held until now, see early.py
        self._messages = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._messages.bind("")  # a free abstract name
        self._messages.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        poll.register(self._messages, select.POLLIN)
        while True:
            self._do_what_is_due(time.monotonic())
            if self._status is not None and not self._servers():
                for handled in SIGNALS:  # Python would end its own handlers before the process has ended
                    signal.signal(handled, signal.SIG_IGN)
                return self._status
            ready = {descriptor for descriptor, _ in poll.poll(self._milliseconds())}
            if self._messages.fileno() in ready:
                self._read_message()
            if woken.fileno() in ready:
                for number in woken.recv(4096):
                    self._on_signal(number)

    def _servers(self) -> list[Server]:
        return [server for server in (self._server, self._next, self._leaving) if server]

    # Time

    def _do_what_is_due(self, now: float) -> None:
        if self._stopping and not self._servers() and self._status is None:
            self._status = 0
        if not self._server and not self._stopping and self._status is None and now >= self._start_at:
            self._server = self._start()
        if self._again and self._is_ready() and not (self._next or self._leaving or self._stopping):
            self._again = False
            self._restart()
        for server in self._servers():
            if now >= server.kill_at:
                log("error", "server does not end, killing it", pid=server.pid)
                server.kill_at = NEVER
                server.signal(signal.SIGKILL)
            elif now >= server.due(self._watchdog):
                log("error", "server does not answer, killing it", pid=server.pid, seconds=self._watchdog)
                server.ready = False
                server.kill_at = now + ABORT_TIMEOUT
                server.signal(signal.SIGABRT)
        if not self._is_ready() and now >= self._next_ping:  # no server does it at the moment
            self._next_ping = now + self._watchdog / 2
            self._tell("WATCHDOG=1")

    def _milliseconds(self) -> float:
        """Until something is due."""
        due = [server.due(self._watchdog) for server in self._servers()]
        due += [] if self._server else [self._start_at]
        due += [] if self._is_ready() else [self._next_ping]
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1

    def _is_ready(self) -> bool:
        return self._server is not None and self._server.ready

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
        log("info", "server started", pid=pid, command=" ".join(self._command))
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
            name = self._messages.getsockname()
            variables |= {"LISTEN_PID": pid, "NOTIFY_SOCKET": f"@{name[1:].decode()}"}
            variables |= {"WATCHDOG_PID": pid, "WATCHDOG_USEC": str(int(self._watchdog * 1e6))}
            os.execvpe(self._command[0], self._command, os.environ | variables)  # noqa: S606 - the user's own command
        except BaseException as error:  # noqa: BLE001 - must not return into the supervisor
            log("error", "can't start the server", command=" ".join(self._command), error=str(error))
        finally:
            os._exit(1)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stopping = True
            self._tell("STOPPING=1")
            for server in self._servers():
                server.signal(signal.SIGKILL if server is self._next else signal.SIGTERM)  # it has begun nothing
        elif number == signal.SIGHUP and self._on_terminal and not os.isatty(2):
            self._on_signal(signal.SIGTERM)  # the terminal was closed
        elif number == signal.SIGHUP:
            for each in (self._server, self._next):
                if each and each.ready:
                    each.signal(signal.SIGHUP)
                elif each:
                    each.reloads = True
        elif number == signal.SIGUSR2 and not self._stopping:
            self._restart()

    def _restart(self) -> None:
        if self._next or self._leaving:
            self._again = True  # the one that is under way may have begun too early
        elif self._is_ready():
            log("info", "starting a server that takes over")
            self._tell("STATUS=starting a server that takes over")
            self._start_next()
        else:  # there is none, or one that may be hanging
            self._start_at, self._backoff = 0.0, BACKOFF
            if self._server:
                self._server.kill_at = time.monotonic() + STOP_TIMEOUT
                self._server.signal(signal.SIGTERM)

    def _take_over(self) -> None:
        """The next server is the server from now on, and may go on."""
        self._leaving, self._server, self._next = self._server, self._next, None
        self._close_gate()

    def _close_gate(self) -> None:
        os.close(self._gate)
        self._gate = 0

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for server in self._servers():
                if pid == server.pid:
                    server.close()
                    code = os.waitstatus_to_exitcode(status)
                    reason = f"exit status {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
                    self._on_end(server, code, reason)

    def _on_end(self, server: Server, code: int, reason: str) -> None:
        """code: its exit status, or minus the signal that ended it."""
        level = "info" if code in (0, -signal.SIGTERM) else "error"
        if server is self._leaving:
            self._leaving = None
            log(level, "server stopped", pid=server.pid, reason=reason)
        elif server is self._next:
            self._next = None
            self._close_gate()
            if not self._stopping:
                event = "new server ended before it could take over, the old one goes on"
                log("error", event, pid=server.pid, reason=reason)
                if self._server:
                    self._server.tell(f"{RESTART_FAILED}={reason}")
        elif self._next and not self._stopping:
            self._take_over()
            self._leaving = None
            log(level, "server stopped", pid=server.pid, reason=reason)
        else:
            self._server = None
            self._on_end_of_last(server, code, reason)

    def _on_end_of_last(self, server: Server, code: int, reason: str) -> None:
        if self._stopping:
            self._status = code if code >= 0 else 0 if code == -signal.SIGTERM else 128 - code
        elif code == CONFIGURATION and not self._was_ready:
            self._status = code  # it has said why
        else:
            log("error", "server ended, starting it again", pid=server.pid, reason=reason, seconds=self._backoff)
            self._start_at = time.monotonic() + self._backoff
            self._backoff = min(2 * self._backoff, MAX_BACKOFF)

    # Messages

    def _read_message(self) -> None:
        message, ancillary, _, _ = self._messages.recvmsg(4096, CREDENTIALS)
        sender = next((int.from_bytes(data[:4], sys.byteorder) for _, _, data in ancillary), 0)
        server = next((server for server in self._servers() if server.pid == sender), None)
        if not server:
            return
        fields = dict(line.partition("=")[::2] for line in message.decode(errors="replace").splitlines())
        server.heard_at = time.monotonic()
        if server is self._next and PREPARED in fields and self._server:
            server.kill_at = NEVER
            self._server.kill_at = time.monotonic() + STOP_TIMEOUT
            self._server.signal(signal.SIGTERM)
        if server is self._server and RELEASED in fields and self._next:
            self._take_over()
        if "READY" in fields:
            self._on_ready(server)
        if server is self._server:
            self._tell("\n".join(f"{key}={value}" for key, value in fields.items() if key in PASSED_ON))

    def _on_ready(self, server: Server) -> None:
        server.ready = self._was_ready = True
        self._backoff = BACKOFF
        if server.reloads:
            server.reloads = False
            server.signal(signal.SIGHUP)

    def _tell(self, message: str) -> None:
        """Tell the service manager, if there is one."""
        if not self._manager or not message:
            return
        try:
            notify.send(self._manager, message)
        except OSError as error:
            log("warning", "can't notify the service manager", error=str(error))


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


if __name__ == "__main__":
    sys.exit(Supervisor(sys.argv[1:]).run())
