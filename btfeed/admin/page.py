"""GET /: the page for a browser (btfeed/page), its stylesheet and its script, which gets / again when /events has news.

Those who may see the same and chose the same get the same page, which is rendered once.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web

from btfeed.admin.access import Handler, trusted
from btfeed.admin.history import History
from btfeed.admin.shared import Shared
from btfeed.admin.snapshot import Snapshots
from btfeed.page.page import HERE, MAX_ROWS, SECURITY_HEADERS, STATIC, login, render
from sinks.shared.clock import Clock

Records = Callable[[frozenset[str], int], Awaitable[dict[str, Any]]]
"""Returns the newest records of these transactions, or of all if there are none, and at most that many."""
WRONG = "This is not the token of this server."


class _Reader(NamedTuple):
    """All on which a page depends beside the server: readers that are equal get the same one.

    private: whether the reader may see what is private. session: whether it has signed in. transaction: of which it wants
    records, "" for all
    """

    private: bool
    session: bool
    transaction: str


class PageRoutes:
    """The routes, as an application of aiohttp takes them. asks_token: whether admin.token is set."""

    def __init__(
        self,
        snapshots: Snapshots,
        history: History,
        records: Records,
        asks_token: Callable[[], bool],
        version: str,
        clock: Clock,
    ) -> None:
        self._snapshots = snapshots
        self._history = history
        self._records = records
        self._asks_token = asks_token
        self._version = version
        self._pages = Shared(self._render, clock)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/", self._page), *(web.get(f"/{name}", self._static) for name in STATIC)]

    def renew(self) -> None:
        """Discard the rendered pages: the next request renders a new one."""
        self._pages.forget()

    def close(self) -> None:
        self._pages.close()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Whoever changes something sees it at once."""
        try:
            return await handler(request)
        finally:
            if request.method not in ("GET", "HEAD"):
                self.renew()

    async def _page(self, request: web.Request) -> web.Response:
        private, asks_token = trusted(request), self._asks_token()
        if asks_token and not private:
            return _response(_encoded(login(self._version, WRONG if "wrong" in request.query else "")), "text/html", 401)
        transaction = request.query.get("transaction", "") if private else ""  # only trusted readers see records
        return _response(await self._pages.get(_Reader(private, asks_token, transaction)), "text/html")

    async def _render(self, reader: _Reader) -> bytes:
        private, session, transaction = reader
        records = await self._records(frozenset([transaction] if transaction else []), MAX_ROWS) if private else None
        status = await self._snapshots.read(private)
        return _encoded(render(status, self._history.shown(), records, transaction, session=session))

    async def _static(self, request: web.Request) -> web.Response:
        name = request.path.removeprefix("/")
        return _response((HERE / "static" / name).read_bytes(), STATIC[name])


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _response(body: bytes, content_type: str, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, headers=SECURITY_HEADERS, content_type=content_type, charset="utf-8")
