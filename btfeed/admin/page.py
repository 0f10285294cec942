"""GET /: the page for a browser (btfeed/page), its stylesheet and its script, which gets / again when /events has news."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from btfeed.admin.access import trusted
from btfeed.admin.history import History
from btfeed.admin.snapshot import Snapshots
from btfeed.page.page import HERE, MAX_ROWS, SECURITY_HEADERS, STATIC, login, render

Records = Callable[[frozenset[str], int], Awaitable[dict[str, Any]]]
"""Gives the newest records: of these transactions, or of all, and at most so many."""
WRONG = "This is not the token of this server."


class PageRoutes:
    """The routes, as an application of aiohttp takes them. asks_token: whether admin.token is set."""

    def __init__(
        self, snapshots: Snapshots, history: History, records: Records, asks_token: Callable[[], bool], version: str
    ) -> None:
        self._snapshots = snapshots
        self._history = history
        self._records = records
        self._asks_token = asks_token
        self._version = version

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/", self._page), *(web.get(f"/{name}", self._static) for name in STATIC)]

    async def _page(self, request: web.Request) -> web.Response:
        private, asks_token = trusted(request), self._asks_token()
        if asks_token and not private:
            return html(login(self._version, WRONG if "wrong" in request.query else ""), 401)
        transaction = request.query.get("transaction", "")
        records = await self._records(frozenset([transaction] if transaction else []), MAX_ROWS) if private else None
        status = await self._snapshots.read(private)
        return html(render(status, self._history.shown(), records, transaction, session=asks_token))

    async def _static(self, request: web.Request) -> web.Response:
        name = request.path.removeprefix("/")
        return _response((HERE / "static" / name).read_bytes(), STATIC[name])


def html(text: str, status: int = 200) -> web.Response:
    return _response(text.encode("utf-8", "replace"), "text/html", status)


def _response(body: bytes, content_type: str, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, headers=SECURITY_HEADERS, content_type=content_type, charset="utf-8")
