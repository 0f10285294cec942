"""The stand-in for Dynatrace, with an API token or OAuth, plain JSON or CloudEvents, with and without gzip."""

from collections.abc import Callable, Mapping
from pathlib import Path

from btfeed.records.schema import MAPS, RECORD_FIELDS
from sinks.base import Sink, SinkContext
from sinks.batch import Batch
from sinks.bizevents import BizeventsSettings, BizeventsSink
from sinks.shared.clock import SYSTEM_CLOCK, Clock
from tests.servers.bizevents import API_TOKEN, CLIENT_ID, CLIENT_SECRET, BizeventsServer
from tests.support.fakes import batch_of

TOKEN: Mapping[str, object] = {"api_token": API_TOKEN}


def oauth(server: BizeventsServer, **more: object) -> dict[str, object]:
    """The settings of the stand-in's OAuth client."""
    client = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "token_url": server.token_url}
    return {"oauth": client | more}


def bizevents_sink(url: str, settings: Mapping[str, object] = TOKEN, clock: Clock = SYSTEM_CLOCK) -> BizeventsSink:
    """A sink to `url`."""
    found = BizeventsSettings.model_validate({"url": url} | dict(settings))
    return BizeventsSink(found, SinkContext("biz", RECORD_FIELDS, MAPS, clock))


def small(count: int = 3) -> Batch:
    """A batch of small records."""
    return batch_of([b'{"event.id":"post-%d","event.type":"t","n":%d}' % (n, n) for n in range(count)])


class BizeventsDriver:
    """A server of its own. It keeps old events, since the suite's records are of all times."""

    serial = once = False

    def __init__(self, way: str) -> None:
        self._server = BizeventsServer().start()
        self._server.silent_drop = False
        self._server.takes_gzip = True
        self._settings: dict[str, object] = dict(TOKEN)
        self._url = self._server.url
        if way == "oauth":
            self._settings = oauth(self._server)
            self._url += "/platform/classic/environment-api"
        elif way == "activegate-cloudevents-gzip":
            self._url += "/e/env"
            self._settings |= {"cloud_events": True, "gzip": True}

    def create(self) -> Sink:
        return bizevents_sink(self._url, self._settings)

    def create_broken(self) -> Sink:
        return bizevents_sink(self._url + "/e/nowhere", self._settings)

    async def read(self) -> list[bytes]:
        return [event.raw for event in self._server.accepted]

    def expected(self, bodies: list[bytes]) -> list[bytes]:
        return bodies

    async def snapshot(self) -> object:
        return [event.raw for event in [*self._server.accepted, *self._server.dropped]]

    async def close(self) -> None:
        self._server.stop()


def _driver(way: str) -> Callable[[Path], BizeventsDriver]:
    return lambda directory: BizeventsDriver(way)


DRIVERS = {way: _driver(way) for way in ("token", "oauth", "activegate-cloudevents-gzip")}
