"""Forwards the posts in the spill of a process that has ended, or is still ending."""

from collections.abc import Callable

import structlog

from btfeed.journal.base import JournalError, JournalInUse
from btfeed.journal.kafka.spill import Spill
from sinks.shared.clock import Clock

log = structlog.get_logger()

PAUSE = 1.0
"""Seconds between two attempts to open it."""


async def forward_left_over(create: Callable[[], Spill], spills: list[Spill], clock: Clock) -> None:
    """create: makes the spill, which is not open. It is among `spills` while it is."""
    spill, told = create(), ""
    while True:
        try:
            await spill.open()
            break
        except JournalError as error:
            if str(error) != told and not isinstance(error, JournalInUse):
                log.warning("can't read what is left in another spill, retrying", error=str(error))
            told = str(error)
            spill = create()
        await clock.sleep(PAUSE)
    spills.append(spill)
    await spill.run(until_empty=True)
    await spill.close()
    spills.remove(spill)  # now, since the intake closes what is in it if it has cancelled this
