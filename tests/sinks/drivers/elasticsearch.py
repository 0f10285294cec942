"""Real Elasticsearch servers, 9 without security and 8 with it; indexes, and a data stream."""

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from btfeed.records.schema import MAPS, RECORD_FIELDS
from sinks.base import Sink, SinkContext
from sinks.batch import Batch
from sinks.elasticsearch.settings import ElasticsearchSettings
from sinks.elasticsearch.sink import ElasticsearchSink
from tests.servers.elasticsearch import EIGHT, NINE, PASSWORD, USER, Elasticsearch, shared
from tests.support.fakes import TRANSACTION, batch_of
from tests.support.ports import free_port

CONTEXT = SinkContext("search", RECORD_FIELDS, MAPS)
BASIC = {"basic": {"username": USER, "password": PASSWORD}}
_SENT = re.compile(rb'\{"@timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",')


def elasticsearch_sink(url: str, **settings: object) -> ElasticsearchSink:
    """A sink to `url`."""
    return ElasticsearchSink(ElasticsearchSettings.model_validate({"hosts": [url]} | settings), CONTEXT)


def record_of(source: bytes) -> bytes:
    """The record in a document: everything except the time in front."""
    match = _SENT.match(source)
    assert match, source
    return b"{" + source[match.end() :]


class Place:
    """Names on a shared server that start with a unique `prefix`. `close` deletes them."""

    def __init__(self, server: Elasticsearch) -> None:
        self.server = server
        self.prefix = f"t{uuid.uuid4().hex[:12]}"
        self.pattern = f"{self.prefix}-*"
        self.settings: dict[str, object] = {"index": f"{self.prefix}-{{category}}-{{date}}"}
        if server.secured:
            self.settings |= {"ca": str(server.ca), "auth": BASIC}

    def sink(self, **settings: object) -> ElasticsearchSink:
        """A sink that writes there: to the place's index, unless it is to be a data stream."""
        own = {key: value for key, value in self.settings.items() if key != "index" or "data_stream" not in settings}
        return elasticsearch_sink(self.server.url, **own | settings)

    def records(self) -> list[bytes]:
        """Every record that is there."""
        return [record_of(bytes(document.source)) for document in self.server.documents(self.pattern)]

    def close(self) -> None:
        """Delete everything except data streams, which these servers cannot delete."""
        for kind in ("", "/_index_template"):
            self.server.ask("DELETE", f"{kind}/*{self.prefix}*")


def records(*fields: Mapping[str, object], category: str = "purepath", prefix: str = "post") -> Batch:
    """Records with these fields."""
    transaction = replace(TRANSACTION, category=category)
    always = {"event.kind": "BIZ_EVENT", "event.id": "", "timestamp": "2026-01-31T12:00:00.000Z"}
    bodies = [json.dumps(always | {"event.id": f"{prefix}-{n}"} | dict(more)).encode() for n, more in enumerate(fields)]
    return batch_of(bodies, prefix, transaction)


class ElasticsearchDriver:
    """Indexes of its own, or a data stream."""

    serial = False
    once = True

    def __init__(self, place: Place, **settings: object) -> None:
        self._place = place
        self._settings = settings

    def create(self) -> Sink:
        return self._place.sink(**self._settings)

    def create_broken(self) -> Sink:
        return elasticsearch_sink(f"http://127.0.0.1:{free_port()}", index=f"{self._place.prefix}-x")

    async def read(self) -> list[bytes]:
        return self._place.records()

    def expected(self, bodies: list[bytes]) -> list[bytes]:
        return bodies

    async def snapshot(self) -> object:
        ask = self._place.server.ask
        found = [ask("GET", path + self._place.prefix + "*") for path in ("/", "/_index_template/btfeed-")]
        return found, await self.read()

    async def close(self) -> None:
        self._place.close()


def _driver(version: str, secured: bool) -> Callable[[Path], ElasticsearchDriver]:
    def create(directory: Path) -> ElasticsearchDriver:
        place = Place(shared(version, secured))
        return ElasticsearchDriver(place, index=f"{place.prefix}-{{date}}")

    return create


def _data_stream(directory: Path) -> ElasticsearchDriver:
    place = Place(shared())
    return ElasticsearchDriver(place, data_stream=f"{place.prefix}-events")


DRIVERS = {
    "9": _driver(NINE, secured=False),
    "9-data-stream": _data_stream,
    "8-secured": _driver(EIGHT, secured=True),
}
