"""Dead letters for the page: the newest, retry, and export. What the commands do, in the server's process.

Each request opens the dead letters for itself, on a thread, as a command would: see btfeed.journal.base.DeadLetters.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from btfeed.admin.access import LETTERS
from btfeed.admin.answers import NOT_KEPT, as_json, as_text, is_number
from btfeed.admin.letter_json import described, exported
from btfeed.admin.parts import Parts
from btfeed.journal.base import LATEST, DeadLetter, DeadLetters, JournalError, Selection
from btfeed.telemetry.wording import cut

T = TypeVar("T")

MAX_SHOWN = 100
"""Dead letters in one answer."""
MAX_CONTENT = 20_000
"""Characters of a body that are shown. An export has all of it."""
MAX_REASON = 1_000
"""Characters of a reason."""
AT_A_TIME = 500
"""Dead letters that are exported or retried before the server looks whether it is to go on."""
AT_ONCE = 2
"""Requests that may use the dead letters at the same time."""


class Retry(msgspec.Struct, forbid_unknown_fields=True):
    """What to retry: these ids, or all of a sink with this cause ("" for no sink)."""

    ids: list[int] | None = None
    sink: str | None = None
    cause: str | None = None


class Letters:
    """The dead letters of one server. Methods raise JournalError."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._stopping = threading.Event()

    def close(self) -> None:
        """Let what is going on end soon."""
        self._stopping.set()

    async def _use(self, use: Callable[[DeadLetters], T]) -> T:
        def used() -> T:
            with self._parts.dead_letters() as letters:
                return use(letters)

        async with self._turn:
            return await asyncio.to_thread(used)

    async def samples(self, groups: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], dict[str, Any]]:
        """The newest of each group, a sink and a cause, without its body."""

        def find(letters: DeadLetters) -> dict[tuple[str, str], dict[str, Any]]:
            found = ((group, letters.newest(1, Selection(group[0], cause=group[1]))) for group in groups)
            return {
                group: {"id": each.id, "time": each.time, "reason": cut(each.reason, MAX_REASON)}
                for group, newest in found
                for each in newest
            }

        return await self._use(find)

    async def newest(self, selection: Selection, limit: int, before: int) -> Sequence[DeadLetter]:
        return await self._use(lambda letters: letters.newest(limit, selection, before))

    async def retry(self, selection: Selection) -> tuple[int, int]:
        """How many were marked, and how many could not be, or were not because the server stops."""

        def mark(letters: DeadLetters) -> tuple[int, int]:
            marked, found, wants = 0, letters.count(selection), self._parts.wants()
            ids = (each.id for each in letters.select(selection))
            while not self._stopping.is_set() and (some := list(islice(ids, AT_A_TIME))):
                marked += letters.retry(Selection(ids=some), wants)
            return marked, max(0, found - marked)

        return await self._use(mark)

    async def export(self, selection: Selection) -> AsyncIterator[bytes]:
        """Pieces of NDJSON, the oldest first."""
        async with self._turn:
            opened = self._parts.dead_letters()
            letters = await asyncio.to_thread(opened.__enter__)
            try:
                selected = letters.select(selection)
                while not self._stopping.is_set() and (piece := await asyncio.to_thread(_piece, selected)):
                    yield piece
            finally:
                await asyncio.to_thread(opened.__exit__, None, None, None)


class LetterRoutes:
    """The routes, as an application of aiohttp takes them."""

    def __init__(self, letters: Letters) -> None:
        self._letters = letters

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(LETTERS, self._list, allow_head=False),
            web.get(f"{LETTERS}/export", self._export, allow_head=False),
            web.post(f"{LETTERS}/retry", self._retry),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        limit, before = query.get("limit", str(MAX_SHOWN)), query.get("before", str(LATEST))
        if not (is_number(limit) and int(limit) and is_number(before)):
            return as_text(400, "limit must be 1 or more, and before 0 or more, in digits")
        number = min(int(limit), MAX_SHOWN)
        try:
            found = await self._letters.newest(_selection(query), number, int(before))
        except JournalError as error:
            return as_text(503, f"the journal failed: {error}")
        shown = [_shown(each) for each in found]
        return as_json({"letters": shown, "before": found[-1].id if found else None})

    async def _retry(self, request: web.Request) -> web.Response:
        try:
            what = msgspec.json.decode(await request.read(), type=Retry)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return as_text(400, f"not what to retry: {error}")
        if not what.ids and (what.sink is None or what.cause is None):
            return as_text(400, "say what to retry: ids, or sink and cause")
        try:
            marked, left = await self._letters.retry(Selection(what.sink, what.ids or (), what.cause))
        except JournalError as error:
            return as_text(503, f"the journal failed: {error}")
        return as_json({"marked": marked, "left": left})

    async def _export(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                "Content-Type": "application/x-ndjson",
                "Content-Disposition": 'attachment; filename="dead-letters.ndjson"',
                **NOT_KEPT,
            }
        )
        pieces = self._letters.export(_selection(request.query))
        try:
            async for piece in pieces:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(piece)
        except JournalError as error:
            if not response.prepared:
                return as_text(503, f"the journal failed: {error}")
            if request.transport:
                request.transport.abort()  # so that the file is seen to be incomplete
            return response
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]  # it is a generator
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()
        return response


def _piece(selected: Iterator[DeadLetter]) -> bytes:
    return b"".join(msgspec.json.encode(exported(each)[0]) + b"\n" for each in islice(selected, AT_A_TIME))


def _selection(query: Mapping[str, str]) -> Selection:
    return Selection(query.get("sink"), cause=query.get("cause"))


def _shown(letter: DeadLetter) -> dict[str, Any]:
    """For the page: with the beginning of the body, as text if it is a record, else in base64."""
    content, _ = exported(letter)
    text = letter.body.decode("utf-8", "replace") if "record" in content else content["body"]
    return described(letter) | {
        "time": letter.time,
        "reason": cut(letter.reason, MAX_REASON),
        "destination": cut(letter.destination),
        "transaction": cut(letter.transaction.name) if letter.transaction else None,
        "bytes": len(letter.body),
        "content": cut(text, MAX_CONTENT),
    }
