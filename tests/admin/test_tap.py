"""Readers of records that take nothing any more."""

import asyncio
import socket

import pytest

from btfeed.admin import tap
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.tap import Taps
from sinks.batch import Batch, Transaction
from sinks.shared.clock import SYSTEM_CLOCK
from tests.admin.serving import serve
from tests.support.harness import until_async

RECORDS = 500


def batch() -> Batch:
    transaction = Transaction("name", "application", "profile", "server", "purepath")
    ids = [str(number) for number in range(RECORDS)]
    return Batch(ids, ids, [0] * RECORDS, [transaction] * RECORDS, [2_000] * RECORDS, [memoryview(bytes(2_000))] * RECORDS)


async def test_a_reader_that_stalls_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is free for another one then."""
    monkeypatch.setattr(tap, "STALLED", 0.2)
    metrics = Metrics()
    taps = Taps(metrics)
    runner, port = await serve(tap.TapRoutes(taps, ["a"], metrics, SYSTEM_CLOCK).routes())
    loop = asyncio.get_running_loop()
    with socket.socket() as reader:
        reader.setblocking(False)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        await loop.sock_connect(reader, ("127.0.0.1", port))
        await loop.sock_sendall(reader, b"GET /tap HTTP/1.1\r\nHost: a\r\n\r\n")
        await until_async(lambda: metrics.taps._value.get() == 1, "it is there")

        def gone() -> bool:
            taps.offer("a", batch(), lambda some: [bytes(2_000)] * len(some))
            return bool(metrics.taps._value.get() == 0)

        await until_async(gone, "it is cut off")
        assert metrics.tap_lost._value.get() > 0
    await runner.cleanup()
