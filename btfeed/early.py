"""Signals that arrive while `btfeed serve` starts: they wait until it handles them, instead of ending it.

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
