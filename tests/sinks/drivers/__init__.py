"""How the contract suite reaches each destination: one module here for each sink type, with the type's name.

A driver module offers DRIVERS: the name of a variant -> a function from an empty directory to a Driver. Several variants
are several ways to set up the same type.
"""

import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeVar

import sinks
from sinks.base import Sink

S = TypeVar("S", bound=Sink)


class Driver(Protocol):
    """An empty destination, and what the contract suite needs to know about it.

    serial  as in the SinkType
    once    a write that was cancelled and comes again after a restart leaves each record once. False: at least once
    """

    serial: bool
    once: bool

    def create(self) -> Sink:
        """A sink for this destination. One of them is open at a time."""

    def create_broken(self) -> Sink:
        """A sink whose `open` and `check` fail, because the destination is down or the configuration is wrong."""

    async def read(self) -> list[bytes]:
        """All records at the destination, in order of arrival if it keeps an order."""

    def expected(self, bodies: list[bytes]) -> list[bytes]:
        """What `read` returns for these records. `bodies` itself if the destination keeps their bytes."""

    async def snapshot(self) -> object:
        """Everything that `check` could have changed, in a form that can be compared."""

    async def close(self) -> None:
        """Clean up."""


Create = Callable[[Path], Driver]


def drivers_of(name: str) -> Mapping[str, Create]:
    """The drivers of a sink type, by `TYPE-VARIANT`. Raises LookupError, or what importing their module raises."""
    module = importlib.import_module(f"{__name__}.{name}")
    if not hasattr(module, "DRIVERS"):
        raise LookupError("it offers no DRIVERS")
    return {f"{name}-{variant}": create for variant, create in module.DRIVERS.items()}


def drivers() -> Mapping[str, Create]:
    """The drivers of all sink types and of the fakes. Leaves out what can't be imported: a test fails for each of them."""
    found: dict[str, Create] = {}
    for name in [*sinks.types(), "fakes"]:
        with suppress(Exception):
            found |= drivers_of(name)
    return found


@asynccontextmanager
async def opened(sink: S) -> AsyncIterator[S]:
    """`sink`, open during the block."""
    try:
        await sink.open(None)
        yield sink
    finally:
        await sink.close()
