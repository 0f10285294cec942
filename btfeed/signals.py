"""The signals that ask the process to stop, or to load its configuration again."""

import asyncio
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO, Generic, TypeVar

from btfeed import early

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_INPUT_BYTES = 2**16
"""Bytes of standard input that are read at a time: what a pipe holds."""


def stop_on_signals(stop: asyncio.Event | None = None) -> asyncio.Event:
    """Let SIGTERM and SIGINT set `stop`, or a new event, and return it. Call this inside the running event loop."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    return stop


@contextmanager
def cleaning(clean: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM, SIGHUP and SIGINT call `clean` before they end the process, with the status that they give it. What
    ignores or handles them already is left alone, such as SIGINT where it is an exception, KeyboardInterrupt."""

    def end(number: int, frame: FrameType | None) -> None:
        clean()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes handlers from the main thread alone
        return
    caught = [each for each in (*STOP_SIGNALS, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def standard_input() -> BinaryIO | None:
    """Standard input, or None if it is closed. Handlers of signals run while the main thread waits for it.

    It is not sys.stdin.buffer: Python aborts at its end if a thread still reads from that.
    """
    if sys.stdin is None:
        return None
    return io.BufferedReader(_Input(sys.stdin.fileno(), closefd=False), _INPUT_BYTES)


class _Input(io.FileIO):
    """A file that is read only once there is something to read. Python notices a signal that comes just before a read only
    after it; what waits here is woken."""

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        if threading.current_thread() is threading.main_thread():
            self._wait()
        return super().readinto(buffer)

    def _wait(self) -> None:
        with _wakened() as wakened:
            poll = select.poll()
            for each in (self.fileno(), wakened):
                poll.register(each, select.POLLIN)
            while [each for each, _ in poll.poll()] == [wakened]:
                os.read(wakened, _INPUT_BYTES)


@contextmanager
def _wakened() -> Iterator[int]:
    """A descriptor that can be read as soon as a signal with a handler has come. Only for the main thread."""
    wakened, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    try:
        yield wakened
    finally:
        signal.set_wakeup_fd(before)
        os.close(wakened)
        os.close(waker)


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
