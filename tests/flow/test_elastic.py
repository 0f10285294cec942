"""Reading of Elasticsearch, with a stand-in that fails as real clusters do: no numbers of a part of the data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from btfeed.flow import elastic
from btfeed.flow.damage import SourceError
from btfeed.flow.definition import load, parse
from btfeed.flow.sources import Scan
from sinks.shared.clock import SYSTEM_CLOCK
from tests.servers.stand_in import StandIn

DEFINITION = load("web-shop")
KEYWORDS = {"event.type", "event.provider", "event.category", "appmon.visit.id", "appmon.purepath.id"}
Answer = Callable[[dict[str, Any]], web.Response | None]


class Cluster(StandIn):
    """Has `documents` documents in each of two slices, and answers with `answer` where that gives something.

    asked  the searches; open: points in time that are not closed
    """

    def __init__(self, documents: int = 3, answer: Answer = lambda body: None) -> None:
        super().__init__()
        self.documents = documents
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.open = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/{index}/_pit", self._begin)
        app.router.add_delete("/_pit", self._end)
        app.router.add_get("/{index}/_field_caps", self._fields)
        app.router.add_post("/_search", self._search)
        return app

    async def _begin(self, request: web.Request) -> web.Response:
        self.open += 1
        return reply({"id": "pit-0", "_shards": {"total": 2, "successful": 2, "failed": 0}})

    async def _end(self, request: web.Request) -> web.Response:
        self.open -= 1
        return reply({"succeeded": True})

    async def _fields(self, request: web.Request) -> web.Response:
        return reply({"fields": {name: {"keyword": {}} for name in KEYWORDS}})

    async def _search(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        assert request.query["allow_partial_search_results"] == "false"
        answer = self.answer(body)
        if answer is not None:
            return answer
        begin = body["search_after"][0] + 1 if "search_after" in body else 0
        return reply(page(range(begin, min(begin + body["size"], self.documents)), self.documents))


def reply(body: Any, status: int = 200, **headers: str) -> web.Response:
    return web.json_response(body, status=status, headers={"X-Elastic-Product": "Elasticsearch", **headers})


def page(numbers: range, total: int, **more: Any) -> dict[str, Any]:
    hits = [{"_source": {"event.id": str(number)}, "sort": [number]} for number in numbers]
    return {"pit_id": "pit-1", "timed_out": False, "_shards": {"failed": 0}} | {
        "hits": {"total": {"value": total}, "hits": hits},
        **more,
    }


class NoWait:
    """The system's clock, on which pauses take no time. waits: those that were asked for."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.time, self.monotonic, self.timeout = SYSTEM_CLOCK.time, SYSTEM_CLOCK.monotonic, SYSTEM_CLOCK.timeout

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


def read(cluster: Cluster, directory: Path, clock: NoWait | None = None) -> Scan:
    place = elastic.Place(elastic.settings_of([cluster.url], None, None, None), "flows-*")
    return elastic.read(place, DEFINITION, ["event.id"], directory, clock or NoWait())


def ids(scan: Scan) -> list[str]:
    return [json.loads(line)["event.id"] for path in scan.source.ndjson for line in path.read_bytes().splitlines()]


def test_all_pages_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the last one is full, and with the id that the page before has given."""
    monkeypatch.setattr(elastic, "PAGE", 4)
    for documents in (0, 3, 4, 9):
        with Cluster(documents) as cluster:
            scan = read(cluster, tmp_path)
        assert ids(scan) == 2 * [str(number) for number in range(documents)]
        assert cluster.open == 0
        assert {body["pit"]["id"] for body in cluster.asked if "search_after" in body} <= {"pit-1"}
        assert scan.source.now is not None


FAILED = {"failed": 1, "failures": [{"reason": {"reason": "disk"}}]}
FAULTS: dict[str, tuple[Any, str]] = {
    "a shard": (
        page(range(0), 3, _shards={"failed": 1, "failures": [{"reason": {"reason": "disk"}}]}),
        "shard failed: disk",
    ),
    "time": (page(range(3), 3, timed_out=True), "timed out"),
    "documents": (page(range(2), 3), "2 of 3 documents"),
    "no page": ([1], "not one of Elasticsearch"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_missing_ends_the_reading(fault: str, tmp_path: Path) -> None:
    """And the point in time is closed."""
    body, told = FAULTS[fault]
    with Cluster(answer=lambda _: reply(body)) as cluster, pytest.raises(SourceError, match=told):
        read(cluster, tmp_path)
    assert cluster.open == 0


class NotElasticsearch(Cluster):
    """A server that knows none of the paths."""

    def app(self) -> web.Application:
        return web.Application()


def test_a_server_that_is_not_elasticsearch_is_told(tmp_path: Path) -> None:
    """Its 404 says nothing about indexes."""
    with NotElasticsearch() as server, pytest.raises(SourceError, match="HTTP 404: the server is not Elasticsearch"):
        read(server, tmp_path)


def test_a_fault_on_a_later_page_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one slice, while the other is fine."""
    monkeypatch.setattr(elastic, "PAGE", 4)

    def answer(body: dict[str, Any]) -> web.Response | None:
        late = "search_after" in body and body["slice"]["id"] == 1
        return reply({"error": {"type": "search_phase_execution_exception", "reason": "gone"}}, 503) if late else None

    with (
        Cluster(9, answer) as cluster,
        pytest.raises(SourceError, match="HTTP 503: search_phase_execution_exception: gone"),
    ):
        read(cluster, tmp_path)
    assert cluster.open == 0


def test_a_server_that_is_too_busy_is_waited_for(tmp_path: Path) -> None:
    """As long as it says, and longer each time; not for ever."""
    refusals = 3

    def answer(body: dict[str, Any]) -> web.Response | None:
        nonlocal refusals
        refusals -= 1
        return (
            reply({"error": {"type": "es_rejected_execution_exception"}}, 429, **{"Retry-After": "7"})
            if refusals >= 0
            else None
        )

    clock = NoWait()
    with Cluster(answer=answer) as cluster:
        assert len(ids(read(cluster, tmp_path, clock))) == 6
        assert len(clock.waits) == 3
        cluster.answer = lambda body: reply({}, 429)
        with pytest.raises(SourceError, match="HTTP 429"):
            read(cluster, tmp_path, clock)
    assert max(clock.waits) == elastic.LONGEST_WAIT
    assert cluster.open == 0


def test_a_server_that_goes_away_ends_the_reading(tmp_path: Path) -> None:
    """Or is not Elasticsearch."""
    cluster = Cluster()
    with cluster:
        pass
    with pytest.raises(SourceError, match="connect"):
        read(cluster, tmp_path)
    with (
        Cluster(answer=lambda body: web.Response(text="hello")) as cluster,
        pytest.raises(SourceError, match="Elasticsearch"),
    ):
        read(cluster, tmp_path)


def test_the_query_lets_no_record_out_that_the_definition_needs() -> None:
    """Conditions on whole texts, of fields compared as such; without one for a step, types are not compared."""
    found = elastic.query(DEFINITION, KEYWORDS)["bool"]["filter"]
    assert found[0] == {"terms": {"event.provider": ["web-shop"]}}
    types = [each["bool"]["filter"][0]["terms"] for each in found[1]["bool"]["should"]]
    assert types[:2] == [{"event.type": ["Product page viewed"]}, {"event.type": ["Product added to cart"]}]
    assert types[-1] == {"event.category": ["visit"]}
    assert elastic.query(DEFINITION, KEYWORDS, every=True) == {"bool": {"filter": found[:1]}}
    assert elastic.query(DEFINITION, set()) == {"match_all": {}}
    steps = [{"name": "a", "event": "A"}, {"name": "b", "match": {"amount": {"min": 5}}}]
    assert elastic.query(parse({"name": "x", "steps": steps}), KEYWORDS) == {"match_all": {}}
    long = parse({"name": "x", "where": {"event.provider": "x" * 1025}, "steps": [{"name": n, "event": n} for n in "ab"]})
    assert len(elastic.query(long, KEYWORDS)["bool"]["filter"]) == 1
