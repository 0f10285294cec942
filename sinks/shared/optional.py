"""Native modules, which are optional: where one was not built, or for another version, the plain way runs."""

import importlib
import os
from types import ModuleType


def optional(name: str, interface: int) -> ModuleType | None:
    """The module of that name, if it is there and has that INTERFACE. BTFEED_PLAIN=1 in the environment asks for none."""
    if os.environ.get("BTFEED_PLAIN", "") not in ("", "0"):
        return None
    try:
        found = importlib.import_module(name)
    except ImportError:
        return None
    return found if interface == found.INTERFACE else None
