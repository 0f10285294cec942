"""How much dead letters may take: beyond it the oldest are deleted, counted and logged."""

from collections import Counter

from btfeed.journal.sqlite.dead_letter_table import DeadLetterTable, Group, Total
from btfeed.journal.sqlite.settings import SqliteSettings
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.warnings import SummedWarnings

AT_ONCE = 10_000
"""Dead letters that are deleted in one transaction, so that no append waits long."""
LEFT = 15 / 16
"""The part of a bound that is left when it was exceeded: deleting a few with every commit would cost more."""


class DeadLetterBound:
    """Belongs to the journal's thread."""

    def __init__(self, settings: SqliteSettings, metrics: Metrics, warnings: SummedWarnings) -> None:
        self._metrics = metrics
        self._warnings = warnings
        self.reconfigure(settings)

    def reconfigure(self, settings: SqliteSettings) -> None:
        self._bounds = {None: settings.dead_letters, "post": settings.refused_posts}

    def exceeded(self, table: DeadLetterTable) -> bool:
        return any(table.nbytes(kind) > most for kind, most in self._bounds.items())

    def apply(self, table: DeadLetterTable) -> Counter[Group]:
        """Delete the oldest dead letters beyond the bounds, AT_ONCE at most. Returns how many of each group."""
        if not self.exceeded(table):
            return Counter()
        before = table.totals()
        for kind, most in self._bounds.items():
            if table.nbytes(kind) > most:
                table.evict(kind, round(most * LEFT), AT_ONCE)
        after = table.totals()
        return Counter(
            {
                group: total.letters - after.get(group, Total(0, 0)).letters
                for group, total in before.items()
                if group.kind != "block"
            }
        )

    def report(self, evicted: Counter[Group]) -> None:
        for group, number in (+evicted).items():
            self._metrics.dead_letters_evicted.labels(group.sink, group.cause).inc(number)
            self._warnings.error(
                "dead letters full, oldest deleted", ("evicted", group), number, sink=group.sink, reason=group.cause
            )
