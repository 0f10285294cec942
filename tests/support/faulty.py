"""btfeed with file sinks that lose a batch and write another twice: `python -m tests.support.faulty serve -c FILE`.

For tests of what is meant to find that out.
"""

import sys
from typing import Any

from sinks.base import SinkContext, WriteResult
from sinks.batch import Batch
from sinks.file.sink import FileSink
from tests.support.stalled import main

LOST, DOUBLED = 2, 3
"""Which batches with records."""


class FaultySink(FileSink):
    """Says that it has written everything, once."""

    def __init__(self, settings: Any, context: SinkContext) -> None:
        super().__init__(settings, context)
        self._batches = 0

    async def write(self, batch: Batch) -> WriteResult:
        self._batches += 1 if len(batch) else 0
        if len(batch) and self._batches == LOST:
            return await super().write(Batch())
        if len(batch) and self._batches == DOUBLED:
            await super().write(batch)
        return await super().write(batch)


if __name__ == "__main__":
    main(sys.argv[-1], FaultySink, serial=True)
