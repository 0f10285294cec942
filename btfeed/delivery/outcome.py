"""The outcome of a batch: what became of each record, and which ones are dead letters."""

from collections.abc import Mapping

from btfeed.delivery.report import SinkReport
from btfeed.journal.base import DeadLetter
from sinks.base import WriteResult
from sinks.batch import Batch
from sinks.shared.clock import Clock


class Outcome:
    """Collects what the batch's commit will save.

    dead_letters   records that are kept as dead letters now
    redelivered    ids of retried dead letters that were delivered
    refused_again  id of a retried dead letter -> why it was refused this time
    state          the sink's state after the batch, None if it returned none
    """

    def __init__(self, sink: str, retried: Mapping[str, DeadLetter], report: SinkReport, clock: Clock) -> None:
        """retried: event.id -> the dead letter that this batch retries."""
        self.dead_letters: list[DeadLetter] = []
        self.redelivered: list[int] = []
        self.refused_again: dict[int, str] = {}
        self.state: str | None = None
        self._sink = sink
        self._retried = retried
        self._report = report
        self._clock = clock

    def add_result(self, piece: Batch, result: WriteResult) -> None:
        """Record the result of writing `piece`: refused records become dead letters, and those not named are delivered."""
        if result.state is not None:
            self.state = result.state
        for index, reason in result.refused.items():
            self.add_dead_letter(piece, index, "refused", reason)
        not_delivered = {*result.refused, *result.retry}
        nbytes = piece.nbytes - sum(len(piece.body(index)) + 1 for index in not_delivered)
        self._report.result(result, len(piece) - len(not_delivered), nbytes)
        if self._retried:
            self.redelivered += [
                self._retried[event_id].id for index, event_id in enumerate(piece.ids) if index not in not_delivered
            ]

    def add_dead_letter(self, piece: Batch, index: int, cause: str, reason: str) -> None:
        """Keep record `index` of `piece` as a dead letter. cause: the label `reason` of the metric."""
        event_id = piece.ids[index]
        if event_id in self._retried:
            self.refused_again[self._retried[event_id].id] = reason
            return
        self._report.dead_letter(cause)
        self.dead_letters.append(
            DeadLetter(
                "record", self._sink, reason, round(self._clock.time() * 1000), piece.body(index), 1, event_id,
                piece.keys[index], piece.timestamps[index], piece.transactions[index],
            )
        )  # fmt: skip
