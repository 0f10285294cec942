"""The parts of a server that does nothing, for admin listeners of tests."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from btfeed.admin.control import Rewind
from btfeed.admin.parts import Parts
from btfeed.journal.base import DeadLetters, JournalUnavailable, Move
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus
from btfeed.telemetry.tap import Taps
from sinks.batch import Batch

EMPTY = Batch()


class FakeControl:
    """Of a server whose sinks are not paused, and whose positions are not known."""

    paused: Mapping[str, int] = {}
    shared = False

    def type_of(self, sink: str) -> str:
        return "file"

    async def positions(self, sink: str) -> Mapping[int, int]:
        raise JournalUnavailable("the disk failed")

    async def pause(self, sink: str) -> bool:
        raise AssertionError

    resume = pause

    async def rewind(self, sink: str, to: Rewind) -> Sequence[Move]:
        raise AssertionError


class Nothing:
    """A journal of which nothing is asked."""

    refusing = None
    kept = backlog = None


@contextmanager
def no_dead_letters() -> Iterator[DeadLetters]:
    raise JournalUnavailable("no journal")
    yield


def parts(
    journal: Any,
    sinks: Mapping[str, SinkStatus] | None = None,
    metrics: Metrics | None = None,
    newest: Batch = EMPTY,
    dead_letters: Callable[[], Any] = no_dead_letters,
) -> Parts:
    """journal: has backlog, kept and refusing. sinks: one named "a" by default."""
    metrics = metrics or Metrics()

    async def newest_records() -> Batch:
        return newest

    return Parts(
        journal=journal,
        kept=journal.kept,
        why_not_ready=lambda: journal.refusing,
        sinks={"a": SinkStatus()} if sinks is None else sinks,
        control=FakeControl(),
        taps=Taps(metrics),
        metrics=metrics,
        version="1",
        identity={"role": "serve", "instance": None, "prefix": None},
        configuration=lambda: {"journal": {"when_full": "refuse"}},
        dead_letters=dead_letters,
        wants=lambda: {"a": lambda transaction: True},
        newest=newest_records,
    )
