"""Retry-After of an HTTP service, with several requests at a time."""

from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from sinks.base import Sink, SinkContext, WriteResult
from sinks.batch import Batch
from sinks.bizevents import BizeventsSettings, BizeventsSink
from sinks.elasticsearch.settings import ElasticsearchSettings
from sinks.elasticsearch.sink import ElasticsearchSink
from tests.servers.bizevents import API_TOKEN, BizeventsServer, Fault
from tests.servers.stand_in import StandIn
from tests.support.clock import FakeClock
from tests.support.fakes import Rig
from tests.support.harness import until_async

IN_FLIGHT = 4


class Bulk(StandIn):
    """An Elasticsearch that takes everything but the first bulk request, which it answers with 429."""

    busy = True

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**25)
        app.router.add_put("/_bulk", self._bulk)
        app.router.add_route("*", "/{path:.*}", self._other)
        return app

    async def _bulk(self, request: web.Request) -> web.Response:
        lines = (await request.read()).count(b"\n")
        if self.busy:
            self.busy = False
            return web.Response(status=429, headers={"Retry-After": "30"})
        items = [{"create": {"status": 201}}] * (lines // 2)
        return web.json_response({"errors": False, "items": items}, headers={"X-Elastic-Product": "Elasticsearch"})

    async def _other(self, request: web.Request) -> web.Response:
        status = 200 if request.method == "PUT" else 404
        return web.json_response({}, status=status, headers={"X-Elastic-Product": "Elasticsearch"})


class Timed:
    """A sink that notes when each write begins."""

    def __init__(self, sink: Sink, clock: FakeClock) -> None:
        self._sink = sink
        self._clock = clock
        self.began: list[float] = []
        self.open, self.check, self.close = sink.open, sink.check, sink.close

    async def write(self, batch: Batch) -> WriteResult:
        self.began.append(self._clock.now)
        return await self._sink.write(batch)


@pytest.fixture(params=["bizevents", "elasticsearch"])
def busy_sink(request: pytest.FixtureRequest, dynatrace: BizeventsServer) -> Iterator[tuple[Sink, FakeClock]]:
    """A sink whose first write is answered with 429 and a Retry-After of 30 s, and its clock."""
    clock = FakeClock()
    context = SinkContext("sink", (), (), clock)
    with Bulk() as bulk:
        dynatrace.faults += [Fault(429, {"Retry-After": "30"})]
        bizevents: dict[str, Any] = {"url": dynatrace.url, "api_token": API_TOKEN}
        yield (
            (
                BizeventsSink(BizeventsSettings.model_validate(bizevents), context)
                if request.param == "bizevents"
                else ElasticsearchSink(ElasticsearchSettings(hosts=[bulk.url]), context)
            ),
            clock,
        )


async def test_all_writers_wait_as_long_as_one_is_told(busy_sink: tuple[Sink, FakeClock]) -> None:
    """Those that have nothing to write at the time, too."""
    sink, clock = Timed(*busy_sink), busy_sink[1]
    async with Rig(sink, clock=clock, linger="0s", in_flight=IN_FLIGHT, max_records=10) as rig:
        await rig.post(10)
        await until_async(lambda: rig.delivery.status.state == "unavailable", "the first is refused")
        for seed in range(1, 1 + 2 * IN_FLIGHT):
            await rig.post(10, seed)
        await clock.advance(1)
        await until_async(lambda: clock.due_at(30) == IN_FLIGHT, "all writers wait")
        await clock.advance(30)
        await until_async(lambda: rig.delivery.status.delivered == 10 * (1 + 2 * IN_FLIGHT), "all delivered")
    assert sink.began[0] == 0
    assert min(sink.began[1:]) >= 30
