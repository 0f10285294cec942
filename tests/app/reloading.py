"""A server in this process whose configuration a test changes and reloads."""

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from btfeed import config
from btfeed.app.reload import Reloader
from btfeed.app.server import Server
from btfeed.config import Config
from btfeed.delivery.sink_config import CommonSettings, SinkConfig
from sinks.base import Misconfigured, SinkContext, SinkType, WriteResult
from sinks.batch import Batch
from sinks.settings import Place, Settings
from tests.support.harness import DEADLINE, until_async
from tests.support.ports import free_port
from tests.support.rawhttp import RawClient, request


class FakeSettings(Settings):
    """version: anything that differs; a sink of version 0 is misconfigured. ca: a file."""

    version: int = 1
    ca: Place | None = None


class FakeSink:
    """Keeps what it is given. Writes wait while `gate` is closed."""

    def __init__(self, settings: FakeSettings) -> None:
        self.settings = settings
        self.ids: list[str] = []
        self.bodies: list[bytes] = []
        self.opened = self.closed = False
        self.writing = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def open(self, state: str | None) -> None:
        self.opened = True
        if not self.settings.version:
            raise Misconfigured("wrong password")

    async def check(self) -> None: ...

    async def write(self, batch: Batch) -> WriteResult:
        self.writing += 1
        await self.gate.wait()
        self.ids += batch.ids
        self.bodies += batch.bodies
        return WriteResult()

    async def close(self) -> None:
        self.closed = True


class Running:
    """A running server. tables: its configuration, for a test to change. broken: why a sink can't be created.

    made: the sinks of each name that were opened, the oldest first
    """

    def __init__(self, directory: Path, grace: float = 5.0, **tables: dict[str, Any]) -> None:
        self.port, self.admin_port = free_port(), free_port()
        self.tables: dict[str, Any] = {
            "receiver": {"listen": f"127.0.0.1:{self.port}"},
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
            "journal": {"directory": str(directory / "journal")},
            "record": {},
            "validation": {},
        }
        for name, table in tables.items():
            self.tables[name] |= table
        self.sinks: dict[str, FakeSettings] = {"first": FakeSettings(), "second": FakeSettings()}
        self.starts: dict[str, str] = {}
        self.broken: Exception | None = None
        self._made: dict[str, list[FakeSink]] = {}
        self.server = Server(self.config(), grace)
        self.reloader = Reloader(self.server, self.config)

    def config(self) -> Config:
        parsed = config.parse(self.tables, {})
        kind = SinkType(FakeSettings, self._create)
        sinks = {
            name: SinkConfig(
                CommonSettings.model_validate({"type": "fake", "start": self.starts.get(name, "oldest")}), kind, settings
            )
            for name, settings in self.sinks.items()
        }
        return Config(parsed.receiver, parsed.admin, parsed.journal, parsed.validation, parsed.record, sinks)

    def _create(self, settings: Any, context: SinkContext) -> FakeSink:
        if self.broken:
            raise self.broken
        sink = FakeSink(settings)
        self._made.setdefault(context.name, []).append(sink)
        return sink

    def made(self, name: str) -> list[FakeSink]:
        return [sink for sink in self._made.get(name, []) if sink.opened]

    def sink(self, name: str) -> FakeSink:
        """The one that is at work."""
        return self.made(name)[-1]

    def ids(self, name: str) -> list[str]:
        """What all sinks of this name were given, one after the other."""
        return [each for sink in self.made(name) for each in sink.ids]

    async def opened(self, name: str, number: int = 1) -> None:
        await until_async(lambda: len(self.made(name)) == number, f"{number} sinks {name}")

    async def delivered(self, name: str, records: int) -> None:
        """Return when all sinks of this name together have this many records, each once."""
        await until_async(lambda: len(self.ids(name)) >= records, f"{records} records at {name}")
        assert len(self.ids(name)) == len(set(self.ids(name))) == records

    async def reload(self) -> list[str]:
        """The errors."""
        return list(await self.reloader.reload())

    async def refused(self) -> list[str]:
        """Reload what is wrong; the errors. The server's configuration is the one that it had."""
        before = self.server.config
        errors = await self.reload()
        assert errors
        assert self.server.config is before
        return errors

    @asynccontextmanager
    async def connect(self, **options: Any) -> AsyncIterator[RawClient]:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port, **options))
        try:
            yield client
        finally:
            await client.close()

    async def post(self, body: bytes, *headers: str, line: str = "POST / HTTP/1.1") -> int:
        """The status of the answer to one post on a connection of its own."""
        async with self.connect() as client:
            return await post(client, body, *headers, line=line)

    async def status(self) -> dict[str, Any]:
        def run() -> dict[str, Any]:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/status", timeout=DEADLINE) as answer:
                return dict(json.load(answer))

        return await asyncio.to_thread(run)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.server.metrics.registry.get_sample_value(f"btfeed_{name}", labels)


async def post(client: RawClient, body: bytes, *headers: str, line: str = "POST / HTTP/1.1") -> int:
    await client.send(request(body, *headers, line=line))
    return (await client.response()).status


@asynccontextmanager
async def running(directory: Path, grace: float = 5.0, **tables: dict[str, Any]) -> AsyncIterator[Running]:
    """A server with the sinks `first` and `second`, both open. grace: seconds that sinks have to finish their writes."""
    found = Running(directory, grace, **tables)
    await found.server.start()
    try:
        for name in found.sinks:
            await found.opened(name)
        yield found
    finally:
        await found.server.stop()
