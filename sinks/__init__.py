"""Sinks deliver records to other systems. The `type` in a table [sinks.NAME] names a module or package in here.

Read `base` first: it is the whole contract. It builds on `batch`, `settings` (also sizes, times, secrets) and `template`.
`shared` is what several sinks use. Everything that offers a SinkType as SINK is a sink: `file`, `bizevents`, `kafka`,
`elasticsearch`. Other Python packages add sinks with entry points in the group `btfeed.sinks`: the type's name, and where
its SINK is.
"""

import importlib
import pkgutil
from importlib.metadata import entry_points

from sinks.base import SinkType

GROUP = "btfeed.sinks"
"""The group of entry points through which other packages offer sinks."""


def types() -> list[str]:
    """The values that `type` may have. Imports every module in this package; one that can't be imported is included, and
    `load` raises why."""
    return sorted({*filter(_may_offer, modules()), *entry_points(group=GROUP).names})


def load(name: str) -> SinkType:
    """The sink type with this name. Raises LookupError, without the name, since that may be a misplaced secret."""
    found = _find(name) if name in modules() else None
    if found is None:
        found = next((entry.load() for entry in entry_points(group=GROUP, name=name)), None)
    if found is None:
        raise LookupError(f"unknown sink type; known are {', '.join(types())}")
    return found


def modules() -> list[str]:
    """The names of the modules and packages in this package."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def _may_offer(module: str) -> bool:
    try:
        return _find(module) is not None
    except Exception:  # noqa: BLE001 - whatever it is, it must not hide the other types
        return True


def _find(module: str) -> SinkType | None:
    """What the module offers as SINK, if anything."""
    found: SinkType | None = getattr(importlib.import_module(f"{__name__}.{module}"), "SINK", None)
    return found
