"""Rejected posts that wait on this machine while Kafka is away: dead letters of the spill, sent to PREFIX.refused later.

They have room of their own beside that of posts, `journal.refused_posts`. Beyond it the oldest are deleted, counted and
logged by the spill's SQLite journal. One whose acknowledgement was lost may be in the topic twice.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from btfeed.journal.base import Commit, Cursor, DeadLetter, JournalError, JournalUnavailable, PostTooLarge
from btfeed.journal.sqlite.journal import SqliteJournal
from sinks.shared.clock import Clock

log = structlog.get_logger()

WAITS_FOR = "topic of refused posts"
"""The destination of letters that wait here. Others of the spill, which are too large for Kafka, wait for nothing."""
AT_ONCE = 8
"""Letters to send at a time: each may be as large as a post."""
PAUSE = 2.0
"""Seconds between two attempts. Each may leave a copy in the topic."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What is told of the topic of refused posts.

    send       returns once the topic has a letter. Raises PostTooLarge if it never takes it, or another JournalError
    works      whether Kafka takes anything
    forwarded  called with how many letters the topic has got
    too_large  called with what the topic never takes, and why
    """

    send: Callable[[DeadLetter], Awaitable[None]]
    works: Callable[[], bool]
    forwarded: Callable[[int], object]
    too_large: Callable[[PostTooLarge], object]


class SpilledLetters:
    """Those in one spill. number: how many wait."""

    def __init__(
        self, journal: SqliteJournal, save: Callable[[Commit], Awaitable[None]], topic: Topic, clock: Clock
    ) -> None:
        """save: called with what became of letters. Raises JournalUnavailable."""
        self.number = 0
        self._journal = journal
        self._letters = journal.outlet("")  # of no sink
        self._save = save
        self._topic = topic
        self._clock = clock
        self._added = asyncio.Event()
        self._told = ""  # why the topic took none
        self._unsaved: Commit | None = None  # what became of letters that were sent

    async def add(self, letter: DeadLetter) -> None:
        """Durable on return. Raises JournalUnavailable."""
        try:
            await self._journal.add_dead_letter(replace(letter, destination=WAITS_FOR))
        except JournalUnavailable as error:
            raise JournalUnavailable(f"the spill failed: {error}") from None
        self.number += 1
        self._added.set()

    async def measure(self) -> None:
        """Count what waits. Raises JournalUnavailable."""
        self.number = (await self._letters.destinations()).get(WAITS_FOR, 0)

    async def run(self, until_empty: bool = False) -> None:
        """Send what waits, until it is cancelled or, on demand, until nothing waits."""
        while self.number or not until_empty:
            if not self.number:
                self._added.clear()
                await self._added.wait()
            if not await self._try():
                await self._clock.sleep(PAUSE)

    async def _try(self) -> bool:
        """Whether anything was sent."""
        if not self._topic.works():
            return False
        attempt = asyncio.create_task(self._send())
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:  # what was sent has to be deleted
            await asyncio.wait([attempt])
            raise
        except JournalError as error:
            log.debug("refused posts of the spill can't be read or deleted", error=str(error))
            return False

    async def _send(self) -> bool:
        if self._unsaved is None:  # otherwise the disk failed, and they must not be sent again
            self._unsaved = await self._try_some()
        if self._unsaved:
            await self._save(self._unsaved)
        saved, self._unsaved = bool(self._unsaved), None
        await self.measure()
        return saved

    async def _try_some(self) -> Commit | None:
        """What became of those that the topic took, or never takes."""
        found = await self._letters.waiting(WAITS_FOR, AT_ONCE)
        outcomes = await asyncio.gather(*map(self._topic.send, found), return_exceptions=True)
        sent: list[int] = []
        too_large: dict[int, str] = {}
        for letter, outcome in zip(found, outcomes, strict=True):
            if outcome is None:
                sent.append(letter.id)
            elif isinstance(outcome, PostTooLarge):
                too_large[letter.id] = str(outcome)
                self._topic.too_large(outcome)
            elif isinstance(outcome, JournalError):
                self._tell(str(outcome))
            else:
                raise outcome
        if not sent and not too_large:
            return None
        self._topic.forwarded(len(sent))
        self._told = ""
        return Commit(Cursor(0), redelivered=sent, refused_again=too_large)

    def _tell(self, reason: str) -> None:
        """Once, while Kafka takes posts: it is the topic of refused ones that takes none, perhaps for lack of a right."""
        if self._topic.works() and not self._told:
            log.warning("refused posts wait in the spill, retrying", error=reason)
            self._told = reason
