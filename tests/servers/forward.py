"""A forwarder of TCP connections that can lose replies, after the server behind it has done its work."""

import asyncio
from contextlib import suppress
from types import TracebackType


class Forward:
    """`async with Forward(port) as forward`: forwards connections from forward.port to `port`.

    lose  how many of the next replies to lose, each with its connection
    lost  how many were lost so far
    """

    def __init__(self, port: int) -> None:
        self.lose = self.lost = 0
        self._target = port
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Forward":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop listening, and break every connection."""
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        requests = asyncio.create_task(self._copy(reader, there_writer))
        try:
            while data := await there_reader.read(65_536):
                if self.lose:
                    self.lose -= 1
                    self.lost += 1
                    break
                writer.write(data)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            """The other side or `stop` ended it."""
        finally:
            self._connections.discard(task)
            requests.cancel()
            for end in (writer, there_writer):
                end.transport.abort()
            with suppress(asyncio.CancelledError, OSError):
                await requests

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
