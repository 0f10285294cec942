"""An HTTP server in a separate thread, the base of stand-ins for services."""

import asyncio
import threading
from ssl import SSLContext
from typing import Self

from aiohttp import web


class StandIn:
    """A server at `url`, on a free loopback port, while its `with` block runs. host: the host name in `url`."""

    host = "127.0.0.1"

    def __init__(self, tls: SSLContext | None = None) -> None:
        self._tls = tls
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._started = threading.Event()

    def app(self) -> web.Application:
        """The application that answers."""
        raise NotImplementedError

    def start(self) -> Self:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _run(self) -> None:
        with asyncio.Runner() as runner:  # cancels what is still answered
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=0.1, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.port: int = runner.addresses[0][1]
        self.url = f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"
        self._started.set()
        await self._stopping.wait()
        await runner.cleanup()
