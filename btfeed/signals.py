"""The signals that ask the process to stop, or to load its configuration again."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Generic, TypeVar

from btfeed import early

T = TypeVar("T")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals(stop: asyncio.Event | None = None) -> asyncio.Event:
    """Let SIGTERM and SIGINT set `stop`, or a new event, and return it. Call this inside the running event loop."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    return stop


@contextmanager
def cleaning(clean: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP call `clean` before they end the process, with the status that they give it. What ignores or
    handles them already is left alone. SIGINT is an exception, KeyboardInterrupt, and needs none of this."""

    def end(number: int, frame: FrameType | None) -> None:
        clean()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes handlers from the main thread alone
        return
    caught = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


class HangUps:
    """SIGHUP, which asks a server to load its configuration again. From `catch` on it does not end the process, even before
    the event loop runs. One that comes while none is awaited, or was held (early.py), counts for the next `wait`."""

    def __init__(self) -> None:
        self._arrived = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_terminal = False

    @property
    def terminal_closed(self) -> bool:
        """Whether standard error was a terminal and is none any more. Its end sends a SIGHUP that asks for no reload."""
        return self._on_terminal and not sys.stderr.isatty()

    def catch(self) -> None:
        """Call this in the main thread."""
        self._on_terminal = early.on_terminal or sys.stderr.isatty()
        signal.signal(signal.SIGHUP, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])

    def ignore(self) -> None:
        """Nothing is reloaded any more. Python would end its own handlers before the process has ended."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def wait(self) -> None:
        """Return once one has arrived since the last call returned. Call this in the main thread's event loop."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._arrived.wait()
            self._arrived.clear()
        finally:
            self._loop = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(self._arrived.set)
        else:
            self._arrived.set()


class Interrupted(BaseException):
    """A signal arrived while the main thread computed or waited."""


class StopSignals:
    """SIGTERM and SIGINT for a run that takes what it works on from an iterator.

    An iterator may compute for minutes or wait for standard input, and no callback of the event loop runs meanwhile. So the
    handler runs at once, outside of the loop, and interrupts the iterator.

    requested  whether a signal has arrived
    event      is set then, for what waits in the event loop
    """

    def __init__(self) -> None:
        self.requested = False
        self.event = asyncio.Event()
        self.interrupts = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals. Enter this in the main thread."""
        before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal raise Interrupted here. Enter this in the main thread, outside of the event loop."""
        try:
            self.interrupts = True
            yield
        finally:
            self.interrupts = False

    @contextmanager
    def in_loop(self) -> Iterator[None]:
        """Set `event` in the running event loop, also for a signal that came earlier."""
        self._loop = asyncio.get_running_loop()
        if self.requested:
            self.event.set()
        try:
            yield
        finally:
            self._loop = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self._loop:
            self._loop.call_soon_threadsafe(self.event.set)
        if self.interrupts:
            self.interrupts = False
            raise Interrupted


class Interruptible(Generic[T]):
    """The items of an iterator, until a signal arrives. Use it in the main thread."""

    def __init__(self, items: Iterator[T], stop: StopSignals) -> None:
        self._items = items
        self._stop = stop

    def __iter__(self) -> "Interruptible[T]":
        return self

    def __next__(self) -> T:
        try:
            self._stop.interrupts = True
            if self._stop.requested:
                raise StopIteration
            return next(self._items)
        except Interrupted:
            raise StopIteration from None
        finally:
            self._stop.interrupts = False
