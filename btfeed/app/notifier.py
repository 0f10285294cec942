"""What the server tells its service manager: systemd, or `btfeed serve --supervise`. See sd_notify(3)."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager

import structlog

from btfeed import notify
from btfeed.journal.base import JournalError
from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()


class Notifier:
    """Does nothing if there is no service manager. The variables that name it are removed, since they are for no other
    process.

    takes_over  there is an old server, whose work this one is to go on with
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ, clock: Clock = SYSTEM_CLOCK) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        wanted = self._address and microseconds.isdecimal() and pid in ("", str(os.getpid()))
        self._interval = int(microseconds) / 2e6 if wanted else 0.0
        self._clock = clock
        self._status = ""
        self._supervisor = int(environment.pop(notify.SUPERVISOR, "0"))
        self._gate = int(environment.pop(notify.TAKE_OVER, "0"))
        self.takes_over = bool(self._gate)

    async def take_over(self) -> None:
        """Say that the old server may stop, and return when it has released everything."""
        self._tell(f"{notify.PREPARED}=1")
        loop, open_gate = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._gate, open_gate.set)
        await open_gate.wait()
        loop.remove_reader(self._gate)
        os.close(self._gate)

    def ready(self, status: str) -> None:
        """Posts are accepted. status: a line for `systemctl status`."""
        self._status = status
        self._tell("READY=1", f"STATUS={status}")

    @contextmanager
    def during_reload(self) -> Iterator[None]:
        """Enter this while the configuration is loaded again."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading the configuration")
        try:
            yield
        finally:
            self.ready(self._status)

    def stopping(self) -> None:
        self._tell("STOPPING=1", "STATUS=stopping")

    def released(self) -> None:
        """Everything is closed: another server may open the journal."""
        self._tell(f"{notify.RELEASED}=1")

    async def orphaned(self, restart_failed: Callable[[str], None]) -> None:
        """Return when the supervisor is gone: if there is none, never. restart_failed: is called when no server could take
        over from this one, with the reason."""
        if not self._supervisor:
            await asyncio.Event().wait()
        reader = asyncio.StreamReader()
        pipe = os.fdopen(self._supervisor, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            async for line in reader:
                key, _, value = line.decode(errors="replace").rstrip("\n").partition("=")
                if key == notify.RESTART_FAILED:
                    restart_failed(value)
        finally:
            transport.close()
        self._address = ""  # was the supervisor's

    async def keep_alive(self, answer: Callable[[], Awaitable[object]]) -> None:
        """Tell the watchdog, if there is one, that the server works: twice in its time, as long as the event loop runs and
        `answer` returns. Does not return."""
        while self._interval:
            try:
                async with self._clock.timeout(self._interval / 2):
                    await answer()
            except TimeoutError:
                log.error("the journal does not answer, the watchdog is not told", seconds=self._interval / 2)
                continue
            except JournalError:
                pass  # it answers, and is seen elsewhere
            self._tell("WATCHDOG=1")
            await self._clock.sleep(self._interval)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            notify.send(self._address, "\n".join(lines))
        except OSError as error:
            if self._supervisor and isinstance(error, ConnectionRefusedError):
                return  # it is gone, which `orphaned` is about to find out
            log.warning("can't notify the service manager", error=str(error))
