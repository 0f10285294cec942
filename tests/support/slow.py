"""btfeed with sinks that take WRITE seconds for each write and forget the records, as if they were far away:
`python -m tests.support.slow COMMAND -c FILE`.
"""

import asyncio
import sys

from sinks.base import WriteResult
from sinks.batch import Batch
from tests.support.stalled import StalledSink, main

WRITE = 0.1


class SlowSink(StalledSink):
    """Takes everything."""

    async def write(self, batch: Batch) -> WriteResult:
        await asyncio.sleep(WRITE)
        return WriteResult()


if __name__ == "__main__":
    main(sys.argv[-1], SlowSink)
