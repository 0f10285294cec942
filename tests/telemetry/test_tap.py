"""Those who watch records: what they get, what they lose, and what that costs the others: nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.tap import MAX_BYTES, MAX_LINES, MAX_WATCHERS, Taps, TooManyWatchers, Wanted, Watcher
from sinks.batch import Batch, Transaction
from tests.support.harness import DEADLINE


def batch(records: int, name: str = "search", size: int = 100) -> Batch:
    transaction = Transaction(name, "application", "profile", "server", "purepath")
    body = memoryview((b'{"name":"%s"}' % name.encode()).ljust(size - 1) + b"\n")
    ids = [f"{name}-{number}" for number in range(records)]
    return Batch(ids, ids, [0] * records, [transaction] * records, [len(body)] * records, [body] * records)


def render(batch: Batch) -> list[bytes]:
    return [event_id.encode() + b"\n" for event_id in batch.ids]


def never(batch: Batch) -> list[bytes]:
    raise AssertionError("nobody watches")


def taken(watcher: Watcher) -> tuple[int, int, bool]:
    lines, lost, more = watcher.take()
    return len(lines), lost, more


@pytest.fixture
def taps() -> Taps:
    return Taps(Metrics())


def counted(taps: Taps) -> tuple[float, float]:
    """Readers, and records lost."""
    metrics: Any = taps._metrics
    return metrics.taps._value.get(), metrics.tap_lost._value.get()


def test_nobody_watches(taps: Taps) -> None:
    """Then no line is made."""
    taps.offer("a", batch(10), never)
    watcher = taps.watch(Wanted(["b"]))
    taps.offer("a", batch(10), never)
    taps.leave(watcher)
    taps.offer("b", batch(10), never)


def test_watchers_get_what_they_want(taps: Taps) -> None:
    """Records of all sinks and transactions, or of some, and at most as many as they say."""
    everything, some, few = (taps.watch(wanted) for wanted in (Wanted(), Wanted(["a"], ["search", "buy"]), Wanted(limit=3)))
    assert counted(taps) == (3, 0)
    for sink in "ab":
        for name in ("search", "login"):
            taps.offer(sink, batch(2, name), render)
    assert taken(everything) == (8, 0, True)
    assert some.take()[0] == [b"search-0\n", b"search-1\n"]
    assert taken(few) == (3, 0, False)
    assert counted(taps)[1] == 0


@pytest.mark.parametrize(("size", "fit"), [(10, MAX_LINES), (MAX_BYTES // 10, 10), (MAX_BYTES * 2, 1)])
def test_a_slow_watcher_loses_what_does_not_fit(taps: Taps, size: int, fit: int) -> None:
    """It is told how many, and they are counted. Another watcher loses none of them."""
    slow, fast = taps.watch(Wanted()), taps.watch(Wanted())
    for _ in range(2 * fit):
        taps.offer("a", batch(1, size=size), render)
        assert taken(fast) == (1, 0, True)
    assert taken(slow) == (fit, fit, True)
    assert counted(taps)[1] == fit
    taps.offer("a", batch(1, size=size), render)
    assert taken(slow) == (1, 0, True)


def test_no_more_lines_are_made_than_fit(taps: Taps) -> None:
    """However large the batch is: the event loop that makes them also answers posts."""
    made: list[int] = []

    def counting(batch: Batch) -> list[bytes]:
        made.append(len(batch))
        return render(batch)

    watcher = taps.watch(Wanted())
    for _ in range(3):
        taps.offer("a", batch(20_000), counting)
    assert sum(made) == MAX_LINES
    assert taken(watcher) == (MAX_LINES, 60_000 - MAX_LINES, True)


def test_only_a_few_may_watch(taps: Taps) -> None:
    """When one leaves, there is room for another."""
    watchers = [taps.watch(Wanted()) for _ in range(MAX_WATCHERS)]
    with pytest.raises(TooManyWatchers, match="4 taps are open already"):
        taps.watch(Wanted())
    taps.leave(watchers[0])
    taps.watch(Wanted())


def test_a_sink_that_can_not_describe_records_still_gets_them(taps: Taps) -> None:
    """The bug is logged once, and those records are counted as lost."""

    def broken(batch: Batch) -> list[bytes]:
        raise ValueError("a bug")

    watcher = taps.watch(Wanted())
    with capture_logs() as logs:
        for _ in range(2):
            taps.offer("a", batch(5), broken)
    assert [entry["event"] for entry in logs] == ["bug in the sink, its records can't be shown"]
    taps.offer("b", batch(1), render)
    assert taken(watcher) == (1, 10, True)


async def test_waiting_ends_with_lines_or_with_the_server(taps: Taps) -> None:
    """Not before."""
    ends: list[Callable[[], object]] = [lambda: taps.offer("a", batch(1), render), taps.close]
    for end in ends:
        watcher = taps.watch(Wanted())
        waiting = asyncio.create_task(watcher.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        end()
        await asyncio.wait_for(waiting, DEADLINE)
    assert taken(watcher) == (0, 0, False)
