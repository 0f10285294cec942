"""btfeed with sinks that hang in their first write: `python -m tests.support.stalled serve -c FILE`."""

import asyncio
import dataclasses
import sys
from pathlib import Path
from typing import Any

import uvloop

from btfeed import config
from btfeed.app import serve as app
from btfeed.telemetry import logs
from sinks.base import SinkContext, SinkFactory, SinkType, WriteResult
from sinks.batch import Batch


class StalledSink:
    """Opens, and hangs in its first write."""

    def __init__(self, settings: Any, context: SinkContext) -> None:
        pass

    async def open(self, state: str | None) -> None:
        pass

    async def check(self) -> None:
        pass

    async def write(self, batch: Batch) -> WriteResult:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def close(self) -> None:
        pass


def main(config_file: str, create: SinkFactory = StalledSink, serial: bool = False) -> None:
    """Serve with sinks that `create` makes in place of the configured ones."""
    logs.configure()
    loaded = config.load(Path(config_file))
    sinks = {
        name: dataclasses.replace(sink, type=SinkType(type(sink.settings), create, serial))
        for name, sink in loaded.sinks.items()
    }
    uvloop.run(app.serve(dataclasses.replace(loaded, sinks=sinks), grace=0.1))


if __name__ == "__main__":
    main(sys.argv[-1])
