"""The queries in docs/sinks/elasticsearch.md, run as they are on records that the sink wrote."""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from btfeed.posts.post import digest
from sinks.batch import Batch
from tests.servers.elasticsearch import EIGHT, NINE, Elasticsearch
from tests.sinks.drivers.elasticsearch import Place
from tests.support import posts
from tests.support.fakes import mapper

PAGE = (Path(__file__).parents[3] / "docs/sinks/elasticsearch.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"^```console\nPOST (/\S+/_search)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
HOUR = 3_600_000


class Written:
    """Records of the last hours, written to a place of their own, and the answers to the page's queries."""

    def __init__(self, place: Place) -> None:
        self.place = place
        now = time.time_ns() // 1_000_000
        bodies = [posts.mixed(60, seed, start=now - (seed % 5) * HOUR) for seed in range(20)]
        self.batch = Batch.concat([mapper().map(body, digest(body)).batch for body in bodies])
        self.records: list[dict[str, Any]] = [json.loads(body) for body in self.batch.bodies]

    def buckets(self, *about: str) -> dict[str, dict[str, Any]]:
        """Key -> bucket of the query with that aggregation on the page, and of the nested aggregation if it is named."""
        ((path, query),) = [(path, query) for path, query in QUERIES if all(f'"{name}": {{' in query for name in about)]
        assert path.startswith("/bizevents-appmon-")
        path = path.replace("/bizevents-appmon", f"/{self.place.prefix}")
        self.place.server.must("POST", f"/{self.place.pattern}/_refresh")
        answer = self.place.server.must("POST", path, json.loads(query))
        return {bucket["key"]: bucket for bucket in answer["aggregations"][about[0]]["buckets"]}

    def count(self, field: str, wanted: Callable[[dict[str, Any]], bool] = lambda record: True) -> Counter[Any]:
        """How many of the records have each value of a field."""
        return Counter(record[field] for record in self.records if field in record and wanted(record))


@pytest_asyncio.fixture(params=[NINE, EIGHT])
async def written(request: pytest.FixtureRequest, elasticsearch: Callable[..., Elasticsearch]) -> AsyncIterator[Written]:
    found = Written(Place(elasticsearch(request.param, secured=request.param == EIGHT)))
    sink = found.place.sink()
    await sink.open(None)
    assert not (await sink.write(found.batch)).refused
    await sink.close()
    yield found
    found.place.close()


async def test_pages_by_a_dimension(written: Written) -> None:
    """Terms on a flattened dimension."""
    found = {key: bucket["doc_count"] for key, bucket in written.buckets("pages").items()}
    assert found == written.count("appmon.dimension.page")


async def test_percentiles_of_duration(written: Written) -> None:
    """Of PurePaths, in nanoseconds: ascending, between minimum and maximum, with half of the records below the median."""
    (bucket,) = written.buckets("transactions", "nanoseconds").values()
    durations = sorted(record["duration"] for record in written.records if record["event.category"] == "purepath")
    middle, late, last = bucket["nanoseconds"]["values"].values()
    assert durations[0] < middle < late < last <= durations[-1]
    share = sum(duration < middle for duration in durations) / len(durations)
    assert bucket["doc_count"] == len(durations)
    assert 0.45 < share < 0.55


async def test_visits_by_country(written: Written) -> None:
    """And how many of them converted."""
    found = written.buckets("countries", "converted")
    assert {key: bucket["doc_count"] for key, bucket in found.items()} == written.count("geo.country.name")
    converted = written.count("geo.country.name", lambda record: record["appmon.visit.converted"])
    assert {key: bucket["converted"]["doc_count"] for key, bucket in found.items()} == {
        key: converted[key] for key in found
    }
    assert sum(converted.values()) > 0


async def test_failures_of_each_transaction_over_time(written: Written) -> None:
    """For each hour: all, and those that failed."""
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for name, bucket in written.buckets("transactions", "over_time").items():
        for hour in bucket["over_time"]["buckets"]:
            found[name, hour["key"]] = hour["doc_count"], hour["failed"]["doc_count"]
    expected: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for record, at in zip(written.records, written.batch.timestamps, strict=True):
        if "event.outcome" in record:
            expected[record["event.name"], at // HOUR * HOUR].append(record["event.outcome"] == "failure")
    assert found == {key: (len(failed), sum(failed)) for key, failed in expected.items()}
    assert sum(failed for _, failed in found.values()) > 0


async def test_a_measure_by_a_dimension(written: Written) -> None:
    """Its sum over all records with that dimension."""
    found = written.buckets("segments", "revenue")
    for segment, number in written.count("appmon.dimension.customer_segment").items():
        values = [r["appmon.measure.revenue"] for r in written.records if r["appmon.dimension.customer_segment"] == segment]
        assert found[segment]["revenue"]["count"] == number
        assert found[segment]["revenue"]["sum"] == pytest.approx(sum(values))


def test_every_question_of_the_page_is_asked_here() -> None:
    """There is one test for each query."""
    assert len(QUERIES) == 5
