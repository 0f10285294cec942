"""The Elasticsearch sink with real servers: what is in an index, and everything that a server refuses."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, Unavailable
from sinks.batch import Batch, Transaction
from tests.sinks.drivers import opened
from tests.sinks.drivers.elasticsearch import Place, records
from tests.support.fakes import batch_of, mapped

NOBODY = {"index.routing.allocation.require._name": "nobody"}


def both(number: int = 3) -> Batch:
    """Records for two indexes in turn: visits at even numbers, PurePaths at odd ones."""
    parts = [records({}, category="purepath" if place % 2 else "visit", prefix=f"p{place}") for place in range(number * 2)]
    return Batch.concat(parts)


def index_of(place: Place, category: str) -> str:
    return f"{place.prefix}-{category}-2023-11-14"


def properties(place: Place) -> dict[str, Any]:
    """Field -> mapping, by dotted name, of all indexes of a place."""
    found: dict[str, Any] = {}

    def add(prefix: str, mapping: Mapping[str, Any]) -> None:
        for name, inner in mapping.get("properties", {}).items():
            if "type" in inner:
                found[prefix + name] = inner
            add(f"{prefix}{name}.", inner)

    for index in place.server.must("GET", f"/{place.pattern}/_mapping").values():
        add("", index["mappings"])
    return found


# What is written


async def test_fields_are_what_the_table_says(place: Place) -> None:
    """On the server: measures are doubles, texts are keywords, all dimensions are one flattened field."""
    batch = Batch.concat(
        [mapped(60), records({"appmon.measure.whole": 1, "environment": "production", "n": 7}, prefix="x")]
    )
    async with opened(place.sink()) as sink:
        assert await sink.write(batch) == await sink.write(Batch())
    found = properties(place)
    assert {name: found[name]["type"] for name in ("@timestamp", "timestamp", "end_time")} == {
        "@timestamp": "date",
        "timestamp": "date",
        "end_time": "date",
    }
    assert found["appmon.measure.whole"]["type"] == found["appmon.measure.revenue"]["type"] == "double"
    assert found["environment"] == found["event.name"] == {"type": "keyword", "ignore_above": 1024}
    assert found["duration"]["type"] == found["appmon.visit.action_count"]["type"] == found["n"]["type"] == "long"
    assert found["client.ip"] == {"type": "ip", "ignore_malformed": True}
    assert found["appmon.dimension"]["type"] == "flattened"
    assert not any(name.startswith("appmon.dimension.") for name in found)
    assert sorted(place.records()) == sorted(batch.bodies)


async def test_what_does_not_fit_an_index_is_kept_all_the_same(place: Place) -> None:
    """An invalid address, texts that are too long to index, and more measures than an index may have fields."""
    flood = [
        {f"appmon.measure.m{number}": number for number in range(start, start + 400)} for start in range(0, 2_000, 400)
    ]
    long = "x" * 40_000
    batch = records({"client.ip": "unknown"}, {"event.name": long, "url.full": long, "appmon.dimension.page": long}, *flood)
    async with opened(place.sink()) as sink:
        result = await sink.write(batch)
    assert not result.refused
    assert not result.retry
    assert len(place.records()) == len(batch)
    assert 500 < len(properties(place)) <= 1_000


async def test_each_record_is_there_once_however_often_it_is_written(place: Place) -> None:
    """The second time it is delivered too, and counted."""
    async with opened(place.sink()) as sink:
        batch = mapped(30)
        assert (await sink.write(batch.slice(0, 20))).flagged == {}
        assert (await sink.write(batch)).flagged == {"duplicate": 20}
        result = await sink.write(batch)
        assert (result.flagged, list(result.retry), result.refused) == ({"duplicate": 30}, [], {})
    assert len(place.records()) == 30


async def test_names_of_users_become_indexes(place: Place) -> None:
    """Elasticsearch accepts every one of them."""
    names = [
        "Checkout - PurePaths",
        'a/b\\c*d?e"f<g>h|i j,k#l:m',
        "Überweisung 日本",
        "",
        "x" * 300,
        "ẞ İ Σ",
        "..",
        "\x00\n",
    ]
    settings = {"index": f"{place.prefix}-{{name}}-{{date}}"}
    batch = Batch.concat(
        [batch_of([b'{"event.id":"x"}'], f"p{n}", Transaction(name, "", "", "", "visit")) for n, name in enumerate(names)]
    )
    async with opened(place.sink(**settings)) as sink:
        result = await sink.write(batch)
    assert (list(result.retry), result.refused) == ([], {})
    assert len(place.records()) == len(names)


# What a server rejects


async def test_a_mapping_conflict_is_that_records_dead_letter(place: Place) -> None:
    """With Elasticsearch's reason; its neighbors are there."""
    batch = records({}, {"duration": "long"}, {"timestamp": "yesterday"}, {"event.name": {"a": 1}}, {})
    async with opened(place.sink()) as sink:
        result = await sink.write(batch)
    assert list(result.retry) == []
    assert sorted(result.refused) == [1, 2, 3]
    assert "failed to parse field [duration] of type [long]" in result.refused[1]
    assert 'For input string: "long"' in result.refused[1]
    assert sorted(place.records()) == sorted([batch.bodies[0], batch.bodies[4]])


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (("PUT", "_block/write"), ("PUT", "_settings", {"index.blocks.write": False}), "index write"),
        (("PUT", "_block/read_only"), ("PUT", "_settings", {"index.blocks.read_only": False}), "read-only"),
        (("POST", "_close"), ("POST", "_open"), "index_closed_exception"),
    ],
)
async def test_an_index_that_takes_nothing_is_blocked_and_its_neighbors_go_on(
    place: Place, before: Sequence[Any], after: Sequence[Any], said: str
) -> None:
    """Blocked or closed: no record is refused, the index is named, and writing goes on when it is usable again."""
    visits = f"/{index_of(place, 'visit')}"

    def tell(method: str, path: str, body: object = None) -> None:
        place.server.must(method, f"{visits}/{path}", body)

    batch = both()
    async with opened(place.sink()) as sink:
        await sink.write(records({}, category="visit", prefix="first"))
        tell(*before)
        result = await sink.write(batch)
        assert (list(result.retry), result.refused, sorted(result.blocked)) == ([], {}, [0, 2, 4])
        assert {one.destination for one in result.blocked.values()} == {f"index {index_of(place, 'visit')}"}
        assert sink.destinations(batch)[:2] == [f"index {index_of(place, one)}" for one in ("visit", "purepath")]
        assert all(said in one.reason for one in result.blocked.values())
        rest = batch.take(sorted(result.blocked))
        assert sorted((await sink.write(rest)).blocked) == [0, 1, 2]
        tell(*after)
        place.server.must("GET", f"/_cluster/health{visits}?wait_for_status=yellow")
        assert not (await sink.write(rest)).retry
    assert len(place.records()) == 7


async def test_an_unassigned_primary_is_waited_for(place: Place) -> None:
    """The other index is written to; when the shard is back, each record is there once."""
    visits = f"/{index_of(place, 'visit')}"
    batch = both()
    async with opened(place.sink(timeout="1500ms")) as sink:
        place.server.must("PUT", f"{visits}?wait_for_active_shards=0", {"settings": NOBODY})
        result = await sink.write(batch)
        assert list(result.retry) == [0, 2, 4]
        rest = batch.take(result.retry)
        with pytest.raises(Unavailable, match="primary shard is not active"):
            await sink.write(rest)
        place.server.must("PUT", f"{visits}/_settings", dict.fromkeys(NOBODY))
        place.server.must("GET", f"/_cluster/health{visits}?wait_for_status=yellow")
        assert not (await sink.write(rest)).retry
    assert sorted(place.records()) == sorted(batch.bodies)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("cluster.blocks.read_only", True, None),
        ("action.auto_create_index", "false", "no such index"),
        ("cluster.max_shards_per_node", 1, "maximum normal shards open"),
    ],
)
async def test_a_cluster_that_takes_no_new_index_needs_a_person(
    place: Place, setting: str, value: object, said: str | None
) -> None:
    """No record is refused, and none is lost. Only a cluster that takes nothing at all is misconfigured."""
    place.server.must("PUT", f"/{place.prefix}-room", {})  # so that there is no room for another shard
    try:
        async with opened(place.sink()) as sink:
            place.server.must("PUT", "/_cluster/settings", {"persistent": {setting: value}})
            if said is None:
                with pytest.raises(Misconfigured, match="read-only"):
                    await sink.write(mapped(5))
            else:
                blocked = (await sink.write(mapped(5))).blocked
                assert len(blocked) == 5
                assert all(said in one.reason for one in blocked.values())
            place.server.must("PUT", "/_cluster/settings", {"persistent": {setting: None}})
            assert not (await sink.write(mapped(5))).retry
    finally:
        place.server.must("PUT", "/_cluster/settings", {"persistent": {setting: None}})
    assert len(place.records()) == 5


async def test_a_request_that_is_too_large_is_halved(place: Place) -> None:
    """If it exceeds http.max_content_length. The halves are accepted."""
    batch = records(*[{"event.name": "x" * 1_000_000}] * 17)
    async with opened(place.sink()) as sink:
        with pytest.raises(BatchRefused, match="413"):
            await sink.write(batch)
        for half in (batch.slice(0, 8), batch.slice(8, 17)):
            assert not (await sink.write(half)).retry
    assert len(place.records()) == 17


async def test_a_line_that_is_broken_refuses_the_whole_request(place: Place) -> None:
    """No record is taken; the loop halves the batch."""
    batch = records({}, {}, {})
    async with opened(place.sink()) as sink:
        with pytest.raises(BatchRefused, match="HTTP 400"):
            await sink.write(replace(batch, ids=["a", 'b"', "c"]))
        assert not (await sink.write(batch)).retry
    assert len(place.records()) == 3


async def test_fewer_requests_at_once_when_elasticsearch_pushes_back(place: Place) -> None:
    """With 429 when its memory for writes is full. Once all records are there, more requests are sent again."""
    batches = [records(*[{"event.name": "x" * 1_000_000}] * 10, prefix=f"p{n}") for n in range(8)]
    refused = 0
    said: set[str] = set()
    async with opened(place.sink()) as sink:

        async def write(batch: Batch) -> None:
            nonlocal refused
            while True:
                try:
                    result = await sink.write(batch)
                except OutcomeUnknown:
                    raise
                except Unavailable as error:
                    said.add(str(error)[:8])
                    refused += 1
                else:
                    if not result.retry:
                        return
                    refused += 1
                    batch = batch.take(result.retry)
                await asyncio.sleep(0.05)

        assert sink._limiter.limit == math.inf
        await asyncio.gather(*map(write, batches))
        assert refused > 0
        assert all("429" in text for text in said), said
        fewest = sink._limiter.limit
        assert fewest < len(batches)
        for turn in range(4):
            await asyncio.gather(*(write(mapped(5, turn * 8 + number)) for number in range(8)))
        assert sink._limiter.limit > fewest
    assert len(place.records()) == 80 + 32 * 5
