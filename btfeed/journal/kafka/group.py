"""A sink's membership in its consumer group: which partitions this process delivers, and how far they have come.

    KafkaOutlets   one session after the other, as long as the journal is open: whatever ends one, another begins
    Session        one consumer, from its start until it fails: a Listener of its assignments (session.py)
    Assignment     the outlets of one generation of the group, which end before the next one begins
    Beginning      where the outlets of an assignment begin to read (beginning.py)
    Health         what a person has to know (health.py)

Members are static: a process that starts again within the session gets its partitions back without a rebalance. Instance
ids are the same in all groups, so that the range assignor gives a process the same partitions for all sinks, and a post is
mapped once.
"""

import asyncio
from collections.abc import Mapping

import structlog

from btfeed.journal.base import JournalError
from btfeed.journal.kafka.health import Health
from btfeed.journal.kafka.reading import AGAIN
from btfeed.journal.kafka.session import Begin, End, Session
from btfeed.journal.kafka.shared import Shared

log = structlog.get_logger()


class KafkaOutlets:
    """See btfeed.journal.base.Outlets. start: where a sink that is new begins, "oldest" or "latest"."""

    def __init__(self, sink: str, start: str, shared: Shared) -> None:
        self.sink = sink
        self._start = start
        self._shared = shared
        self._log = log.bind(sink=sink)
        self._health = Health(sink, shared)
        self._session: Session | None = None
        self._failure: str | None = None  # of the last session

    @property
    def problem(self) -> str | None:
        """What a person has to know or do: another process has this name, a cursor is near the end of retention, or why no
        partitions can be had. None if there is nothing."""
        if self._health.problem or self._session is None or self._session.begun:
            return self._health.problem
        return self._session.problem or self._failure

    @property
    def conflict(self) -> bool:
        return self._health.contested

    async def left(self) -> Mapping[int, str] | None:
        return await self._session.left() if self._session else None

    async def run(self, begin: Begin, end: End) -> None:
        serving = asyncio.create_task(self._serve(begin, end), name=f"sessions of {self.sink}")
        closing = asyncio.create_task(self._shared.closed.wait())
        try:
            await asyncio.wait({serving, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            serving.cancel()
            await asyncio.wait({serving})

    async def begin_group(self) -> None:
        """Save where the sink begins if it is new, without becoming a member. Raises JournalUnavailable."""
        session = Session(self.sink, self._start, self._shared, self._health, _nothing, _nothing)
        try:
            await session.connect()
        finally:
            await session.close()

    async def _serve(self, begin: Begin, end: End) -> None:
        """One session after the other, until cancelled."""
        failures = 0
        while True:
            session = Session(self.sink, self._start, self._shared, self._health, begin, end)
            self._session = session
            try:
                await session.run()
            except JournalError as error:
                problem = str(error)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task and task.cancelling():
                    raise
                problem = "the consumer cancelled itself"
            except Exception as error:  # noqa: BLE001 - logged as a bug, and begun again
                problem = repr(error)
                self._log.error("bug in the outlets of the journal", exc_info=error)
            failures = 0 if session.joined else failures + 1
            if problem != self._failure:
                self._log.warning("can't read the journal, starting again", error=problem)
            self._failure = problem
            await self._shared.clock.sleep(min(AGAIN * 2**failures, self._shared.tuning.pause_max))


async def _nothing(outlets: object) -> None:
    pass
