"""The destinations of a sink that take nothing for now, such as a topic that does not exist.

Records for a blocked destination stand aside: each becomes a dead letter that waits for it, so that the cursor goes on and
the other destinations get their records. This holds for new records as well, so a destination gets its records in order,
and is not asked for each of them. After a pause, the delivery tries the oldest letter again (loop.py). Once one is taken,
it goes on without pauses. When no letter is left, the destination is open again.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from btfeed.delivery.report import SinkReport
from btfeed.delivery.retry import RetryPause
from btfeed.journal.base import Commit
from btfeed.telemetry.sink_status import BlockedDestination
from sinks.base import Misconfigured
from sinks.shared.clock import Clock

WAITED_BEFORE = "dead letters of an earlier run wait for it"


@dataclass(slots=True)
class _Blocked:
    """status: what is shown. due: when to try again, by the monotonic clock. failures: tries that failed in a row.
    unsaved: letters that are not in the journal yet. added: all letters so far."""

    status: BlockedDestination
    due: float
    failures: int = 0
    unsaved: int = 0
    added: int = 0


class BlockedDestinations:
    """The blocked destinations of one sink: true if there is one.

    others_go: whether something was delivered since all destinations were open
    """

    def __init__(self, report: SinkReport, pause: RetryPause, clock: Clock) -> None:
        self.others_go = False
        self._report = report
        self._pause = pause
        self._clock = clock
        self._blocked: dict[str, _Blocked] = {}
        self._changed = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._blocked)

    def reason(self, name: str) -> str | None:
        """Why a destination is blocked; None if it is not."""
        blocked = self._blocked.get(name)
        return blocked.status.reason if blocked else None

    @property
    def problem(self) -> Misconfigured:
        """What to say if nothing can be delivered."""
        name, blocked = next(iter(self._blocked.items()))
        others = f" ({len(self._blocked)} in all)" if len(self._blocked) > 1 else ""
        return Misconfigured(
            f"every record waits for a destination that takes nothing{others}: {name}: {blocked.status.reason}"
        )

    def add(self, name: str, reason: str) -> None:
        """One more record stands aside, since its destination takes nothing."""
        if name not in self._blocked:
            self._block(name, reason, self._pause.length(0))
        blocked = self._blocked[name]
        blocked.status.reason = reason
        blocked.status.waiting += 1
        blocked.unsaved += 1
        blocked.added += 1

    def end_try(self, name: str) -> None:
        """A letter that waited was tried again. If it still waits, it is added again."""
        if name in self._blocked:
            self._blocked[name].status.waiting -= 1

    def saved(self, commit: Commit) -> None:
        """The journal has these letters."""
        for letter in commit.dead_letters:
            self._saved(letter.destination)
        for destination, _ in commit.waiting_again.values():
            self._saved(destination)

    def count(self, saved: Mapping[str, int]) -> None:
        """Set how many letters wait. saved: destination -> how many of them are in the journal."""
        for name in saved.keys() - self._blocked.keys():
            self._block(name, WAITED_BEFORE, 0.0)
        for name, blocked in self._blocked.items():
            blocked.status.waiting = saved.get(name, 0) + blocked.unsaved

    async def due(self) -> str:
        """Return when it is time to try a destination again: its name."""
        while True:
            self._changed.clear()
            name = min(self._blocked, key=lambda name: self._blocked[name].due, default=None)
            left = None if name is None else self._blocked[name].due - self._clock.monotonic()
            if name is not None and left is not None and left <= 0:
                return name
            with suppress(TimeoutError):
                async with self._clock.timeout(left):
                    await self._changed.wait()

    def failed(self, name: str) -> None:
        """It still takes nothing."""
        blocked = self._blocked[name]
        blocked.failures += 1
        self._try_in(blocked, self._pause.length(blocked.failures))

    def later(self, name: str) -> None:
        """There is nothing to try at the moment."""
        self._try_in(self._blocked[name], self._pause.length(0))

    def in_journal(self, name: str) -> int:
        """How many letters the journal has had so far. To be asked before the journal is asked for them."""
        return self._blocked[name].added - self._blocked[name].unsaved

    def open(self, name: str, in_journal: int) -> bool:
        """Open a destination for which the journal had no letter. False if it did not have all letters then."""
        if in_journal != self._blocked[name].added:
            return False
        del self._blocked[name]
        self._report.opened(name)
        return True

    def _block(self, name: str, reason: str, pause: float) -> None:
        if not self._blocked:
            self.others_go = False
        status = BlockedDestination(reason, round(self._clock.time() * 1000))
        self._blocked[name] = _Blocked(status, 0.0)
        self._try_in(self._blocked[name], pause)
        self._report.blocked(name, status)

    def _try_in(self, blocked: _Blocked, seconds: float) -> None:
        blocked.due = self._clock.monotonic() + seconds
        self._changed.set()

    def _saved(self, name: str) -> None:
        if name in self._blocked:
            self._blocked[name].unsaved -= 1
