"""Serves routes of the admin listener by themselves."""

from collections.abc import Iterable
from typing import Any

from aiohttp import web


async def serve(
    routes: Iterable[web.AbstractRouteDef], app: web.Application | None = None, **options: Any
) -> tuple[web.AppRunner, int]:
    """Serve them on a free port. Returns what is to be cleaned up, and the port. options: of the runner."""
    app = app or web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, **options)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, runner.addresses[0][1]
