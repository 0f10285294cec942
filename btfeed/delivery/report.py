"""What a delivery shows of its sink: /status, metrics and logs."""

import traceback

import structlog

from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import BlockedDestination, SinkStatus, State
from btfeed.telemetry.warnings import SummedWarnings
from sinks.base import BatchRefused, Misconfigured, Unavailable, WriteResult
from sinks.shared.clock import Clock

log = structlog.get_logger()

KEPT = "kept as dead letters"
"""The log event of records and posts that can't be delivered."""
REJECTED_IN_A_ROW = 10
"""Records after which a sink that takes none of them counts as one that rejects everything."""

MAX_TOLD = 20
"""Different errors that are logged while a sink does not work. A server may word each one differently."""


class SinkReport:
    """Keeps the status and the metrics of one sink."""

    def __init__(self, sink: str, status: SinkStatus, metrics: Metrics, clock: Clock) -> None:
        self._sink = sink
        self._status = status
        self._metrics = metrics
        self._clock = clock
        self._log = log.bind(sink=sink)
        self._warnings = SummedWarnings(clock)
        self._rejected_in_a_row = 0
        self._bugs: set[tuple[type[Exception], str, int | None]] = set()  # those already logged
        self._delivery_seconds = metrics.delivery_seconds.labels(sink)

    def running(self) -> None:
        if self._rejected_in_a_row >= REJECTED_IN_A_ROW:
            return
        before, self._status.state = self._status.shown, "running"
        if before != "running" == self._status.shown:
            self._warnings.info("sink running", "running", sink=self._sink, after=before)
            self._status.told.clear()

    def stopped(self) -> None:
        self._warnings.close()
        self._status.state = "stopped"

    def failed(self, error: Exception) -> None:
        """The sink raised `error` from open or write. A bug is logged once, whatever its message."""
        misconfigured = isinstance(error, Misconfigured)
        state: State = "misconfigured" if misconfigured else "unavailable"
        known = isinstance(error, (Misconfigured, Unavailable, BatchRefused))
        message = str(error) if known else f"bug: {error!r}"
        if not known and _place(error) not in self._bugs:
            self._bugs.add(_place(error))
            self._log.error("bug in the sink, retrying", exc_info=error)
        elif (state, message) not in self._status.told and len(self._status.told) < MAX_TOLD:
            self._status.told.add((state, message))
            if misconfigured:
                self._warnings.error("sink misconfigured", state, sink=self._sink, error=message)
            else:
                self._warnings.warn("sink unavailable", state, sink=self._sink, error=message)
        self._down(state, message)
        self._metrics.sink_errors.labels(self._sink, state if known else "bug").inc()

    def batch_refused(self) -> None:
        """The sink refused a whole batch, which proves that it is running."""
        self._metrics.sink_errors.labels(self._sink, "batch_refused").inc()
        self.running()

    def blocked(self, destination: str, status: BlockedDestination) -> None:
        """A destination takes nothing from now on. `status` changes with it."""
        self._log.error("destination blocked, its records wait", destination=destination, reason=status.reason)
        self._status.blocked[destination] = status

    def opened(self, destination: str) -> None:
        """A destination takes records again, and has got all that waited."""
        self._log.info("destination open again", destination=destination)
        del self._status.blocked[destination]

    def written(self, seconds: float, records: int) -> None:
        self._metrics.batch_seconds.labels(self._sink).observe(seconds)
        self._log.debug("batch write returned", records=records, seconds=seconds)

    def delivered(self, received: int) -> None:
        """A batch with delivered records is done. received: when its oldest post was, in milliseconds since the epoch."""
        self._delivery_seconds.observe(max(0.0, self._clock.time() - received / 1000))

    def result(self, result: WriteResult, delivered: int, nbytes: int) -> None:
        """Record the result of a write, and how much it delivered."""
        self._status.delivered += delivered
        self._metrics.delivered.labels(self._sink).inc(delivered)
        self._metrics.delivered_bytes.labels(self._sink).inc(nbytes)
        self._metrics.refused.labels(self._sink).inc(len(result.refused))
        self._metrics.unknown.labels(self._sink).inc(result.unknown)
        for what, number in result.flagged.items():
            self._metrics.flagged.labels(self._sink, what).inc(number)
        if delivered:
            self._rejected_in_a_row = 0
        elif result.refused:
            self._rejected_in_a_row += len(result.refused)
            if self._rejected_in_a_row >= REJECTED_IN_A_ROW:
                self._rejects_everything(next(iter(result.refused.values())))

    def _rejects_everything(self, reason: str) -> None:
        if self._status.state != "rejecting":
            self._log.error("sink rejects everything, records become dead letters", reason=reason)
        self._down("rejecting", reason)

    def _down(self, state: State, error: str) -> None:
        self._status.state = state
        self._status.last_error = error
        self._status.last_error_time = round(self._clock.time() * 1000)

    def outcome_unknown(self, records: int) -> None:
        self._metrics.unknown.labels(self._sink).inc(records)

    def retried(self, records: int) -> None:
        self._status.retried += records
        self._metrics.retried.labels(self._sink).inc(records)

    def dead_letters(self, cause: str, records: int, reason: str) -> None:
        """Records became dead letters. reason: that of one of them."""
        if records:
            self._status.dead_letters += records
            self._metrics.dead_letters.labels(self._sink, cause).inc(records)
            self._warnings.warn(KEPT, cause, records, sink=self._sink, cause=cause, reason=reason)


def _place(error: Exception) -> tuple[type[Exception], str, int | None]:
    """The type of `error` and where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return type(error), last.filename, last.lineno
