"""The fakes of the delivery's tests, which are to pass what real sinks pass."""

from pathlib import Path

from sinks.base import Sink, Unavailable
from tests.support.fakes import FakeSink, SerialFakeSink


class FakeDriver:
    """Every sink that it creates appends to the same list."""

    def __init__(self, directory: Path, serial: bool) -> None:
        self.serial = self.once = serial
        self._bodies: list[bytes] = []

    def create(self) -> Sink:
        sink = SerialFakeSink() if self.serial else FakeSink()
        sink.bodies = self._bodies
        return sink

    def create_broken(self) -> Sink:
        return FakeSink(opens=[Unavailable("nobody there")] * 2, checks=[Unavailable("nobody there")])

    async def read(self) -> list[bytes]:
        return list(self._bodies)

    def expected(self, bodies: list[bytes]) -> list[bytes]:
        return bodies

    async def snapshot(self) -> object:
        return list(self._bodies)

    async def close(self) -> None:
        """There is nothing."""


DRIVERS = {
    "serial": lambda directory: FakeDriver(directory, True),
    "parallel": lambda directory: FakeDriver(directory, False),
}
