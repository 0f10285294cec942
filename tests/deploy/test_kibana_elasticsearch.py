"""The panels for Kibana ask real Elasticsearch servers what their definition says, and get what the records say."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import pytest

from btfeed.posts.post import digest
from btfeed.traffic import profile
from btfeed.traffic.generate import GenerateOptions, generate
from sinks.batch import Batch
from tests.deploy.test_kibana import OBJECTS, PANELS, VIEW, named
from tests.servers.elasticsearch import EIGHT, NINE, shared
from tests.sinks.drivers.elasticsearch import Place
from tests.support.fakes import mapper
from tests.support.lens import Key, Panel, Row, milliseconds, panel

VISITS = {"web-shop": 120, "flight-search": 30, "loan-application": 15}
RUNTIME = json.loads(VIEW["runtimeFieldMap"])
ESTIMATED = {"median": 50, "percentile": None}
"""Operations that Elasticsearch estimates, and the percentile if it is always the same."""


@dataclass(frozen=True)
class Written:
    """The records of several business processes, and where the sink wrote them."""

    place: Place
    records: list[dict[str, Any]]

    def ask(self, found: Panel) -> dict[Key, Row]:
        """The panel's rows."""
        times = [milliseconds(record["timestamp"]) for record in self.records]
        body = found.request(min(times), max(times), RUNTIME)
        return found.answered(self.place.server.must("POST", f"/{self.place.pattern}/_search", body))

    def of(self, category: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["event.category"] == category]

    def figure(self, name: str) -> float | None:
        """The number of a panel that shows one."""
        (row,) = self.table(name).values()
        (value,) = row.values()
        return value

    def table(self, name: str) -> dict[Key, Row]:
        """The rows of a panel, with the columns that it shows."""
        (saved,) = [saved for saved in OBJECTS if saved["id"] == name]
        found = panel(saved)
        return {key: {metric: row[metric] for metric in found.shown} for key, row in self.ask(found).items()}


def mean_of(records: list[dict[str, Any]], field: str) -> float:
    return fmean(record[field] for record in records)


async def write(place: Place, batch: Batch) -> None:
    sink = place.sink()
    await sink.open(None)
    assert not (await sink.write(batch)).refused
    await sink.close()
    place.server.must("POST", f"/{place.pattern}/_refresh")


@pytest.fixture(scope="module", params=[NINE, EIGHT])
def elasticsearch(request: pytest.FixtureRequest) -> Iterator[Written]:
    """Written once for all tests, which only read."""
    options = [GenerateOptions(profile.load(name), visits=visits) for name, visits in VISITS.items()]
    bodies = [post.body for one in options for post in generate(one)]
    batch = Batch.concat([mapper().map(body, digest(body)).batch for body in bodies])
    place = Place(shared(request.param, secured=request.param == EIGHT))
    asyncio.run(write(place, batch))
    yield Written(place, [json.loads(body) for body in batch.bodies])
    place.close()


@pytest.mark.parametrize("saved", PANELS, ids=named)
def test_every_panel_shows_what_the_records_say(saved: dict[str, Any], elasticsearch: Written) -> None:
    """Each number of each row: counts, sums, averages and shares exactly, percentiles within what the estimate allows.
    No column is empty, or zero in all rows."""
    found = panel(saved)
    groups = found.computed(elasticsearch.records)
    rows = elasticsearch.ask(found)
    assert rows
    assert rows.keys() == {key for key in groups if shown(found, key, groups, rows)}
    assert all(any(row[name] for row in rows.values()) for name in found.shown)
    for key, row in rows.items():
        expected = found.row(groups[key])
        for name, value in row.items():
            operation = found.columns[name]["operationType"]
            if operation in ESTIMATED:
                assert value is not None
                percent = ESTIMATED[operation] or found.columns[name]["params"]["percentile"]
                assert_percentile(value, percent, found.values(name, groups[key]))
            else:
                assert value == (pytest.approx(expected[name]) if expected[name] is not None else None), (key, name)


def test_figures_are_what_their_titles_say(elasticsearch: Written) -> None:
    """The same numbers, computed from the records without the file."""
    actions, visits = elasticsearch.of("user_action"), elasticsearch.of("visit")
    expected = {
        "btfeed-user-actions": len(actions),
        "btfeed-failed": Counter(action["event.outcome"] for action in actions)["failure"] / len(actions),
        "btfeed-client-errors": sum(action["appmon.client_error_count"] for action in actions),
        "btfeed-visits": sum(VISITS.values()),
        "btfeed-apdex": fmean(visit["appmon.visit.apdex"] for visit in visits),
        "btfeed-conversion": fmean(visit["appmon.visit.converted"] for visit in visits),
        "btfeed-bounce": fmean(visit["appmon.visit.bounce"] for visit in visits),
        "btfeed-actions-per-visit": fmean(visit["appmon.visit.action_count"] for visit in visits),
    }
    for name, value in expected.items():
        assert elasticsearch.figure(name) == pytest.approx(value), name
    assert elasticsearch.figure("btfeed-median") == pytest.approx(median(a["duration"] for a in actions), rel=0.02)


def test_tables_are_what_their_titles_say(elasticsearch: Written) -> None:
    """A row of each, computed from the records without the file."""
    records = [record for record in elasticsearch.records if record["appmon.application"] == "web-shop"]
    actions, visits = ([r for r in records if r["event.category"] == kind] for kind in ("user_action", "visit"))
    austrian = [visit for visit in elasticsearch.of("visit") if visit["geo.country.name"] == "Austria"]
    with_chrome = [visit for visit in elasticsearch.of("visit") if visit["browser.name"] == "Chrome"]
    checkouts = [action for action in actions if action["event.name"] == "Checkout begun"]
    golden = [visit for visit in elasticsearch.of("visit") if visit["appmon.dimension.customer_segment"] == "gold"]
    expected: dict[tuple[str, str], Row] = {
        ("btfeed-applications", "web-shop"): {
            "count": len(records),
            "user_actions": len(actions),
            "visits": len(visits),
            "failed": fmean(r["event.outcome"] == "failure" for r in records if "event.outcome" in r),
            "apdex": fmean(visit["appmon.visit.apdex"] for visit in visits),
        },
        ("btfeed-countries", "Austria"): {"count": len(austrian), "converted": mean_of(austrian, "appmon.visit.converted")},
        ("btfeed-map", "Austria"): {"count": len(austrian)},
        ("btfeed-browsers", "Chrome"): {"count": len(with_chrome), "bounced": mean_of(with_chrome, "appmon.visit.bounce")},
        ("btfeed-transactions", "Checkout begun"): {
            "count": len(checkouts),
            "failed": fmean(action["event.outcome"] == "failure" for action in checkouts),
        },
        ("btfeed-dimension", "Checkout"): {"count": sum(a["appmon.dimension.step"] == "Checkout" for a in actions)},
        ("btfeed-measure", "gold"): {"revenue": sum(visit.get("appmon.measure.revenue", 0) for visit in golden)},
    }
    for (name, key), row in expected.items():
        found = elasticsearch.table(name)[(key,)]
        assert {column: found[column] for column in row} == pytest.approx(row), name


def test_kibana_finds_the_fields(elasticsearch: Written) -> None:
    """Elasticsearch lists every field that a panel names as one that can be searched and aggregated, with one type that
    Kibana knows. A dimension, being part of a flattened field, is there because the data view adds it."""
    names = {name for saved in PANELS for name in panel(saved).fields} | {VIEW["timeFieldName"]}
    path = f"/{elasticsearch.place.pattern}/_field_caps?filters=-parent&fields={','.join(sorted(names))}"
    listed = elasticsearch.place.server.must("POST", path, {"runtime_mappings": RUNTIME})["fields"]
    assert listed.keys() == names
    for name, kinds in listed.items():
        ((kind, about),) = kinds.items()
        assert kind in ("keyword", "long", "double", "boolean", "date"), name
        assert about["searchable"], name
        assert about["aggregatable"], name
    bare = elasticsearch.place.server.must("GET", path)["fields"]
    assert {name for name in names if name not in bare} == {name for name in names if name.startswith("appmon.dimension.")}


def shown(found: Panel, key: Key, groups: Mapping[Key, list[Any]], rows: Mapping[Key, Row]) -> bool:
    """Whether a panel has a row with that key: if there are more values than it has place for, the most frequent ones."""
    size = found.columns[found.buckets[0]]["params"].get("size") if found.buckets else None
    if size is None:
        return True
    totals: Counter[Any] = Counter()
    for (first, *_), records in groups.items():
        totals[first] += len(records)
    kept = {first for first, *_ in rows}
    least = sorted(totals.values(), reverse=True)[: len(kept)][-1]
    assert len(kept) == min(size, len(totals))
    assert all(totals[first] >= least for first in kept)
    return key[0] in kept


def assert_percentile(value: float, percent: float, values: list[float]) -> None:
    """About that many of the values are below."""
    assert min(values) <= value <= max(values)
    below, up_to = (sum(test) / len(values) for test in zip(*((v < value, v <= value) for v in values), strict=True))
    slack = 0.02 + 1 / len(values)
    assert below - slack <= percent / 100 <= up_to + slack or math.isclose(below, percent / 100)
