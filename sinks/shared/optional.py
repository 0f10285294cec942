"""Native modules, which are optional: the plain Python path runs if one was not built, or built for another version."""

import importlib
import os
from types import ModuleType

unusable: dict[str, str] = {}
"""Modules that were looked for in vain, and why they can't be used."""


def optional(name: str, interface: int) -> ModuleType | None:
    """The module with that name if it can be imported and its INTERFACE is `interface`.

    With BTFEED_PLAIN=1 in the environment, always None.
    """
    if os.environ.get("BTFEED_PLAIN", "") not in ("", "0"):
        return None
    try:
        found = importlib.import_module(name)
    except ImportError as error:
        unusable[name] = str(error)
        return None
    if interface != found.INTERFACE:
        unusable[name] = f"it was built for another version, with interface {found.INTERFACE} instead of {interface}"
        return None
    return found
