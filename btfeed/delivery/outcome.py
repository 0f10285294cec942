"""The outcome of a batch: what became of each record, and which ones are dead letters."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from btfeed.delivery.report import SinkReport
from btfeed.journal.base import DeadLetter
from sinks.base import Blocked, WriteResult
from sinks.batch import Batch
from sinks.shared.clock import Clock

FEW = 500
"""Dead letters that are made on the event loop. More of them are made on a thread, so that posts are answered meanwhile."""
NOWHERE: Mapping[str, str] = {}


class Outcome:
    """Collects what the batch's commit will save.

    delivered      how many records were delivered
    dead_letters   records that are kept as dead letters now
    redelivered    ids of retried dead letters that were delivered
    refused_again  id of a retried dead letter -> why it was refused this time
    waiting_again  id of a retried dead letter -> the destination that it waits for, and why
    state          the sink's state after the batch, None if it returned none
    """

    def __init__(self, sink: str, retried: Mapping[str, DeadLetter], report: SinkReport, clock: Clock) -> None:
        """retried: event.id -> the dead letter that this batch retries."""
        self.delivered = 0
        self.dead_letters: list[DeadLetter] = []
        self.redelivered: list[int] = []
        self.refused_again: dict[int, str] = {}
        self.waiting_again: dict[int, tuple[str, str]] = {}
        self.state: str | None = None
        self._sink = sink
        self._retried = retried
        self._report = report
        self._clock = clock

    async def add_result(self, piece: Batch, result: WriteResult) -> None:
        """Record the result of writing `piece`: refused records become dead letters, and those not named are delivered."""
        if result.state is not None:
            self.state = result.state
        await self.add_dead_letters(piece, result.refused, "refused")
        await self.add_waiting(piece, result.blocked)
        not_delivered = {*result.refused, *result.retry, *result.blocked}
        nbytes = piece.nbytes - sum(piece.sizes[index] for index in not_delivered)
        delivered = len(piece) - len(not_delivered)
        self.delivered += delivered
        self._report.result(result, delivered, nbytes)
        if self._retried:
            self.redelivered += [
                self._retried[event_id].id for index, event_id in enumerate(piece.ids) if index not in not_delivered
            ]

    async def add_waiting(self, piece: Batch, blocked: Mapping[int, Blocked]) -> None:
        """Keep records of `piece` as dead letters that wait for their destinations."""
        destinations = {piece.ids[index]: each.destination for index, each in blocked.items()}
        await self.add_dead_letters(piece, {index: each.reason for index, each in blocked.items()}, "waiting", destinations)

    async def add_dead_letters(
        self, piece: Batch, reasons: Mapping[int, str], cause: str, destinations: Mapping[str, str] = NOWHERE
    ) -> None:
        """Keep records of `piece` as dead letters.

        reasons       the index of each -> why
        cause         see DeadLetter
        destinations  event.id of each -> what it waits for; empty if they wait for nothing
        """
        if not reasons:
            return
        indexes = sorted(reasons)
        dead, whys = piece.take(indexes), [reasons[index] for index in indexes]
        made = partial(self._dead_letters, dead, whys, cause, destinations)
        dead_letters = await asyncio.to_thread(made) if len(indexes) > FEW else made()
        known = len(self.dead_letters)
        for dead_letter in dead_letters:
            retried = self._retried.get(dead_letter.event_id or "")
            if retried is None:
                self.dead_letters.append(dead_letter)
            elif dead_letter.destination:
                self.waiting_again[retried.id] = dead_letter.destination, dead_letter.reason
            else:
                self.refused_again[retried.id] = dead_letter.reason
        self._report.dead_letters(cause, len(self.dead_letters) - known, whys[0])

    def _dead_letters(
        self, dead: Batch, reasons: Sequence[str], cause: str, destinations: Mapping[str, str]
    ) -> list[DeadLetter]:
        """One for each record of `dead`."""
        now = round(self._clock.time() * 1000)
        columns = zip(reasons, dead.bodies, dead.ids, dead.keys, dead.timestamps, dead.transactions, strict=True)
        return [
            DeadLetter("record", self._sink, reason, now, body, 1, event_id, key, timestamp, transaction, cause=cause,
                       destination=destinations.get(event_id, ""))
            for reason, body, event_id, key, timestamp, transaction in columns
        ]  # fmt: skip
