"""Which path runs: the native transcoder where it was built (native/), else the plain one. Both give the same bytes.

The plain path says what is right: the native one asks it whenever it refuses something. BTFEED_PLAIN=1 in the environment
asks for the plain path alone.
"""

import os
from typing import Literal

from sinks.shared.optional import optional

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Processors that this process may use: so many posts are worth mapping at a time."""
INTERFACE = 4
"""Of btfeed._native; one that was built for another is not used."""

module = optional("btfeed._native", INTERFACE)
"""btfeed._native where it runs."""
PATH: Literal["native", "plain"] = "plain" if module is None else "native"
"""Which one runs: for `btfeed --version`, /status and /metrics."""
