"""What the admin listener may ask for sinks to be done: /sinks/NAME/pause, resume and rewind, each a POST of JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
import structlog
from aiohttp import web

from btfeed.admin.answers import as_text
from btfeed.journal.base import JournalError, Move

log = structlog.get_logger()

MAX_BODY = 65_536
"""Bytes of a request's JSON."""


class UnknownSink(Exception):
    """No sink has that name. The message lists the existing ones."""


class Conflict(Exception):
    """The sink can't do that as things are. The message says what to do."""


class Rewind(msgspec.Struct, forbid_unknown_fields=True):
    """Where a sink is to continue, as one of time and positions.

    time       with the first post received then, in milliseconds since the epoch, or later
    positions  partition -> the number of the post
    skip       whether it may be ahead of where the sink is, which then never gets the posts between
    """

    time: int | None = None
    positions: dict[int, int] | None = None
    skip: bool = False


class Control(Protocol):
    """Pauses, resumes and rewinds sinks. Methods raise UnknownSink, Conflict or JournalError."""

    @property
    def shared(self) -> bool:
        """Whether other processes may deliver to the same sinks: a rewind concerns only this one."""

    @property
    def paused(self) -> Mapping[str, int]:
        """The sinks that are paused -> since when, in milliseconds since the epoch."""

    def type_of(self, sink: str) -> str:
        """The sink's type in the configuration."""

    async def positions(self, sink: str) -> Mapping[int, int]:
        """Partition -> the number of the post with which the sink continues there."""

    async def pause(self, sink: str) -> bool:
        """Stop a sink until `resume`, over any restart. False if it is paused already."""

    async def resume(self, sink: str) -> bool:
        """Let a paused sink continue where it was. False if it is not paused."""

    async def rewind(self, sink: str, to: Rewind) -> Sequence[Move]:
        """Let a sink continue elsewhere. Returns what that meant in each partition. A paused sink stays paused."""


class SinkRoutes:
    """The routes, as an application of aiohttp takes them."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/sinks/{name}/pause", self._pause),
            web.post("/sinks/{name}/resume", self._resume),
            web.post("/sinks/{name}/rewind", self._rewind),
        ]

    async def _pause(self, request: web.Request) -> web.Response:
        return await self._answer(request, self._control.pause(request.match_info["name"]))

    async def _resume(self, request: web.Request) -> web.Response:
        return await self._answer(request, self._control.resume(request.match_info["name"]))

    async def _rewind(self, request: web.Request) -> web.Response:
        try:
            to = msgspec.json.decode(await request.read(), type=Rewind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return as_text(400, f"not a place to rewind to: {error}")
        if (to.time is None) == (not to.positions):
            return as_text(400, "say where to rewind to: either time or positions")
        return await self._answer(request, self._control.rewind(request.match_info["name"], to))

    async def _answer(self, request: web.Request, doing: Any) -> web.Response:
        """Do it, and answer with JSON, or with what prevents it."""
        name = request.match_info["name"]
        try:
            done = await doing
        except UnknownSink as error:
            return as_text(404, str(error))
        except Conflict as error:
            return as_text(409, str(error))
        except JournalError as error:
            return as_text(503, f"the journal failed: {error}")
        shown: dict[str, Any] = {"sink": name, "paused": name in self._control.paused}
        shown |= {"changed": done} if isinstance(done, bool) else {"partitions": [_shown(move) for move in done]}
        shown["others"] = self._control.shared
        return web.Response(body=msgspec.json.encode(shown), content_type="application/json")


def _shown(move: Move) -> dict[str, Any]:
    return {
        "partition": move.partition,
        "position": move.to.seq,
        "again": move.again,
        "skipped": move.skipped,
        "oldest": move.oldest,
    }
