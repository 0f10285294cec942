"""Whether a report looks from a moment that no real record has: one record with a wrong date makes all flows look old."""

from dataclasses import dataclass
from time import time

from btfeed.flow.clauses import to_ms
from btfeed.flow.definition import Definition
from btfeed.flow.duck import Database

LEAST_GAP = 86_400_000
"""Milliseconds without a record that are never strange."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """The newest record is suspicious.

    future  it is later than the clock of this machine; else it only comes long after the one before it
    before  the time of the newest record that is not suspicious, in milliseconds since the epoch; None: there is none
    """

    future: bool
    before: int | None


def ahead(database: Database, definition: Definition, last: int, now: int | None = None) -> Ahead | None:
    """What is suspicious about the newest record; None: nothing is. Raises FlowError.

    Long after the one before is: longer than the window, than any `lost_after`, and than a day.

    last  its time
    now   what the clock shows; None: it is asked. Both in milliseconds since the epoch
    """
    now = round(time() * 1000) if now is None else now
    bound = f"<= {now}" if last > now else f"< {last}"
    before: int | None = database.one(f"""SELECT max(latest) AS before
FROM (SELECT greatest(t, coalesce(ended, t)) AS latest FROM events) WHERE latest {bound}""")["before"]
    if last > now:
        return Ahead(True, before)
    times = [definition.window, definition.lost_after, *(step.lost_after for step in definition.steps)]
    gap = max(LEAST_GAP, *(to_ms(each) for each in times if each is not None))
    return Ahead(False, before) if before is not None and last - before > gap else None
