"""Signals that arrive while a command starts: those of `btfeed serve` wait until it handles them, and SIGINT ends a command
without a word.

Imports nothing slow, for a start begins with this.
"""

import os
import signal

on_terminal = False
"""Whether standard error was a terminal when `hold` was called. It may have been closed since."""


def hold(supervise: bool) -> None:
    """Let SIGHUP wait, and with a supervisor SIGUSR2, too. A program that replaces this one inherits that."""
    global on_terminal
    on_terminal = os.isatty(2)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP, *([signal.SIGUSR2] if supervise else [])])


def end_on_interrupt() -> bool:
    """Let SIGINT end the process at once, and not raise KeyboardInterrupt in whatever is being imported, which shows a
    traceback. Returns whether it would have: where SIGINT is ignored, it stays so."""
    raised = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raised:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return raised


def raise_on_interrupt() -> None:
    """Let SIGINT raise KeyboardInterrupt again."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
