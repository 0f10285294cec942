"""Destinations of records: one module each, found here by the `type` of a [sinks.NAME] table.

Read `base` first: it is the whole contract. A new sink is one more module beside it that offers a SinkType as SINK.
"""

import importlib
import pkgutil

from sinks.base import SinkType

_NOT_SINKS = ("base", "batch", "settings", "shared", "template")


def types() -> list[str]:
    """The names that `type` may have."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(__path__)
        if module.name not in _NOT_SINKS and not module.name.startswith("_")
    )


def load(name: str) -> SinkType:
    """The sink type of that name, one of `types()`."""
    sink_type: SinkType = importlib.import_module(f"{__name__}.{name}").SINK
    return sink_type
