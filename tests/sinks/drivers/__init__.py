"""How the sinks' contract test reaches each far end: one module here for each type of sink, of the same name.

A module offers DRIVERS: a name -> a function from an empty directory to a Driver. Several names are several ways in which
the type can be set up. Who adds a sink adds its module here, and changes nothing else.
"""

import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import sinks
from sinks.base import Sink

S = TypeVar("S", bound=Sink)


class Driver(Protocol):
    """An empty far end, and what the suite needs to know of it.

    serial  as in the SinkType
    once    a write that was cut off and comes again after a restart leaves each record once; else at least once
    """

    serial: bool
    once: bool

    def create(self) -> Sink:
        """A sink to this far end. All that are created share it; one is open at a time."""

    def create_broken(self) -> Sink:
        """A sink whose `open` fails: nobody there, or not as configured."""

    async def read(self) -> list[bytes]:
        """Every record that is there, in the order of arrival as far as there is one."""

    def expected(self, bodies: list[bytes]) -> list[bytes]:
        """What `read` should make of these records; the same, where the far end keeps bytes."""

    async def snapshot(self) -> object:
        """All that `check` could have changed."""

    async def close(self) -> None:
        """Clear away."""


def drivers() -> Mapping[str, Callable[[Path], Driver]]:
    """Those of all types of sinks, and of the fakes. ModuleNotFoundError where a type has none."""
    found: dict[str, Callable[[Path], Driver]] = {}
    for name in [*sinks.types(), "fakes"]:
        module = importlib.import_module(f"{__name__}.{name}")
        found |= {f"{name}-{variant}": create for variant, create in module.DRIVERS.items()}
    return found


@asynccontextmanager
async def opened(sink: S) -> AsyncIterator[S]:
    """`sink`, open in the block and closed behind it."""
    try:
        await sink.open(None)
        yield sink
    finally:
        await sink.close()
