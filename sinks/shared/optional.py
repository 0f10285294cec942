"""Native modules, which are optional: the plain Python path runs if one was not built, or built for another version."""

import importlib
import os
from types import ModuleType


def optional(name: str, interface: int) -> ModuleType | None:
    """The module with that name if it can be imported and its INTERFACE is `interface`.

    With BTFEED_PLAIN=1 in the environment, always None.
    """
    if os.environ.get("BTFEED_PLAIN", "") not in ("", "0"):
        return None
    try:
        found = importlib.import_module(name)
    except ImportError:
        return None
    return found if interface == found.INTERFACE else None
