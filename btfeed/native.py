"""Whether the native module (native/) is used, or plain Python. Both give the same bytes.

The native module is used if it was built, unless the environment variable BTFEED_PLAIN is 1. The plain path is the
specification: whenever the native one rejects something, the plain one finds the reason.
"""

import os
from typing import Literal

from sinks.shared.optional import optional

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Processors that this process may use: the number of posts to map at the same time."""
INTERFACE = 8
"""The interface of btfeed._native that this version expects. A module with another one is not used."""

module = optional("btfeed._native", INTERFACE)
"""btfeed._native, or None if it is not used."""
PATH: Literal["native", "plain"] = "plain" if module is None else "native"
"""Which path runs, for `btfeed --version`, /status and /metrics."""
