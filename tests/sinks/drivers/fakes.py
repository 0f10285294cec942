"""The fakes of the delivery tests, which have to pass what real sinks pass."""

from pathlib import Path

from sinks.base import Sink, Unavailable
from tests.support.fakes import FakeSink, SerialFakeSink


class FakeDriver:
    """All its sinks append to the same list."""

    def __init__(self, directory: Path, serial: bool) -> None:
        self.serial = self.once = serial
        self._bodies: list[bytes] = []

    def create(self) -> Sink:
        sink = SerialFakeSink() if self.serial else FakeSink()
        sink.bodies = self._bodies
        return sink

    def create_broken(self) -> Sink:
        return FakeSink(opens=[Unavailable("no server")] * 2, checks=[Unavailable("no server")])

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
