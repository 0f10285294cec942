"""Requests that a stop, a pause or a reload does not wait for any longer. Dynatrace may have taken them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from btfeed.app import deliveries as module
from btfeed.app.deliveries import Deliveries
from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.settings import DeliverySettings, FilterSettings
from btfeed.journal.base import Commit, Cursor, JournalUnavailable, Outlet
from btfeed.journal.memory import MemoryJournal, MemoryOutlet
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus
from sinks.base import OutcomeUnknown
from tests.servers.bizevents import BizeventsServer, Fault
from tests.sinks.drivers import opened
from tests.sinks.drivers.bizevents import TOKEN, bizevents_sink, oauth, small
from tests.support import posts
from tests.support.fakes import mapper, post
from tests.support.harness import DEADLINE, until_async

NEVER = Fault(commit=True, delay=2 * DEADLINE)
CUT_OFF = "write cut off after its grace, its records may be delivered again"


@pytest.fixture
def dynatrace() -> Iterator[BizeventsServer]:
    """A server that takes events of all times, and does not answer."""
    with BizeventsServer() as server:
        server.silent_drop = False
        server.always = NEVER
        yield server


class Case:
    """The deliveries of a sink `biz`, which have no time to end."""

    def __init__(self, url: str, on_unknown: str) -> None:
        self.journal = MemoryJournal({"biz": "oldest"})
        self.metrics = Metrics()
        self.mapped_posts = MappedPosts(mapper(), self.metrics, sinks=1)
        self.deliveries = Deliveries(self.journal.outlets, self._create, grace=0.01)
        self._url = url
        self._settings = {**TOKEN, "on_unknown": on_unknown, "timeout": f"{2 * DEADLINE}s"}

    def _create(self, name: str, outlet: Outlet, status: SinkStatus) -> Delivery:
        settings = DeliverySettings.model_validate({"linger": "5ms", "max_records": 2, "in_flight": 2})
        return Delivery(
            name, bizevents_sink(self._url, self._settings), False, settings, FilterSettings(), outlet, self.mapped_posts,
            self.metrics, status,
        )  # fmt: skip

    @property
    def unknown(self) -> float | None:
        return self.metrics.registry.get_sample_value("btfeed_sink_unknown_total", {"sink": "biz"})

    @property
    def letters(self) -> list[str]:
        """event.id of each dead letter."""
        return [letter.event_id or "" for letter in self.journal.dead_letters.select()]

    async def done(self) -> None:
        """Return when the cursor is behind the post."""
        await until_async(lambda: self.journal.cursors["biz", 0][0] == Cursor(2), "everything is settled")


@asynccontextmanager
async def two_requests(dynatrace: BizeventsServer, on_unknown: str) -> AsyncIterator[Case]:
    """Dynatrace has two events in each, and does not answer."""
    case = Case(dynatrace.url, on_unknown)
    await case.journal.open()
    case.deliveries.start_sink("biz")
    try:
        await case.journal.append(post(posts.mixed(4)))
        await until_async(lambda: len(dynatrace.ids) == 4, "Dynatrace has the events")
        yield case
    finally:
        await case.deliveries.stop()
        case.mapped_posts.close()


@pytest.mark.parametrize("on_unknown", ["retry", "dead-letter"])
@pytest.mark.parametrize("how", ["stop", "pause"])
async def test_a_request_that_is_cut_off_has_an_unknown_outcome(
    dynatrace: BizeventsServer, how: str, on_unknown: str
) -> None:
    """At a stop or a reload, and at a pause: it is counted. Its events are sent again, or kept as dead letters and not."""
    async with two_requests(dynatrace, on_unknown) as case:
        with capture_logs() as logs:
            await (case.deliveries.stop_sink("biz") if how == "stop" else case.deliveries.hold_sink("biz"))
        assert CUT_OFF in [entry["event"] for entry in logs]
        assert case.unknown == 4
        dynatrace.always = None
        if how == "stop":
            case.deliveries.start_sink("biz")
        else:
            case.deliveries.release_sink("biz")
        await case.done()
        assert len(set(dynatrace.ids)) == 4
        assert len(dynatrace.ids) == (8 if on_unknown == "retry" else 4)
        assert sorted(case.letters) == ([] if on_unknown == "retry" else sorted(dynatrace.ids))


async def test_a_stop_does_not_wait_long_for_what_can_not_be_saved(
    dynatrace: BizeventsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal fails: the events are sent again."""

    async def fail(outlet: MemoryOutlet, commit: Commit) -> None:
        raise JournalUnavailable("the disk is full")

    monkeypatch.setattr(module, "SAVING", 0.05)
    monkeypatch.setattr(MemoryOutlet, "commit", fail)
    async with two_requests(dynatrace, "dead-letter") as case:
        await asyncio.wait_for(case.deliveries.stop_sink("biz"), DEADLINE)
        monkeypatch.undo()
        assert (case.unknown, case.letters) == (4, [])
        dynatrace.always = None
        case.deliveries.start_sink("biz")
        await case.done()
        assert len(dynatrace.ids) == 8


@pytest.mark.parametrize("on_unknown", ["retry", "dead-letter"])
async def test_a_cancelled_request_that_was_sent_is_unknown(dynatrace: BizeventsServer, on_unknown: str) -> None:
    """The sink says whether its events may be sent again."""
    async with opened(bizevents_sink(dynatrace.url, {**TOKEN, "on_unknown": on_unknown})) as sink:
        write = asyncio.create_task(sink.write(small()))
        await until_async(lambda: dynatrace.sent, "Dynatrace has the request")
        write.cancel()
        with pytest.raises(OutcomeUnknown, match="cut off before the reply was complete") as raised:
            await write
    assert raised.value.again == (on_unknown == "retry")


async def test_a_cancelled_request_that_was_not_sent_is_cancelled(dynatrace: BizeventsServer) -> None:
    """While the sink waits for a token."""
    sink = bizevents_sink(dynatrace.url + "/platform/classic/environment-api", oauth(dynatrace))
    async with opened(sink):
        dynatrace.end_tokens()
        dynatrace.token_faults.append(Fault(delay=2 * DEADLINE))
        write = asyncio.create_task(sink.write(small()))
        await until_async(lambda: not dynatrace.token_faults, "the sink asks for another token")
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
    assert dynatrace.sent == []


async def test_a_request_without_a_connection_is_cancelled(dynatrace: BizeventsServer) -> None:
    """Nobody answers the TLS handshake, so nothing was sent."""
    connected = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    async with opened(bizevents_sink(dynatrace.url)) as sink:
        silent = await asyncio.start_server(never_answer, "127.0.0.1", 0)
        sink._url = f"https://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
        write = asyncio.create_task(sink.write(small()))
        await asyncio.wait_for(connected.wait(), DEADLINE)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        silent.close()
