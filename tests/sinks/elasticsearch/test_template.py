"""The index template and data streams, on a real server."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from sinks.base import Misconfigured
from sinks.elasticsearch.index import TEMPLATE_VERSION
from tests.sinks.drivers import opened
from tests.sinks.drivers.elasticsearch import Place
from tests.support.fakes import mapped


def template_at(place: Place) -> tuple[str, dict[str, Any]]:
    """The name of the template, and what the server has of it."""
    (found,) = place.server.must("GET", f"/_index_template/btfeed-{place.prefix}*")["index_templates"]
    made = {key: value for key, value in found["index_template"].items() if "_date" not in key and key != "composed_of"}
    return found["name"], made


async def test_an_older_template_is_replaced_and_a_newer_one_stays(place: Place) -> None:
    """So does one of the same version, which a person may have changed."""
    async with opened(place.sink()):
        name, made = template_at(place)
    assert made["version"] == TEMPLATE_VERSION
    for version in (TEMPLATE_VERSION, TEMPLATE_VERSION + 1):
        place.server.must("PUT", f"/_index_template/{name}", made | {"version": version, "_meta": {"by": "a person"}})
        async with opened(place.sink()):
            assert template_at(place)[1]["_meta"] == {"by": "a person"}
    unversioned = {key: value for key, value in made.items() if key != "version"}
    for older in (made | {"version": TEMPLATE_VERSION - 1}, unversioned):
        place.server.must("PUT", f"/_index_template/{name}", older | {"_meta": {"by": "a person"}})
        async with opened(place.sink()):
            assert template_at(place)[1] == made


async def test_no_template_where_none_is_wanted(place: Place) -> None:
    """With manage_template = false, the sink installs none."""
    async with opened(place.sink(manage_template=False)) as sink:
        await sink.write(mapped(3))
    assert place.server.ask("GET", f"/_index_template/btfeed-{place.prefix}*")[1]["index_templates"] == []
    assert len(place.records()) == 3


async def test_a_template_for_everybody_is_not_installed(place: Place) -> None:
    """If the index starts with a placeholder. The sink says so once, and works."""
    settings = {"index": f"{{name}}-{place.prefix}-{{date}}"}
    with capture_logs() as logs:
        async with opened(place.sink(**settings)) as sink:
            await sink.open(None)
    assert [(line["event"], line["log_level"]) for line in logs] == [("index template not installed", "warning")]
    assert place.server.ask("GET", f"/_index_template/*{place.prefix}*")[1]["index_templates"] == []


async def test_a_template_that_clashes_needs_a_person(place: Place) -> None:
    """Two of equal priority for one index: the error has Elasticsearch's message."""
    async with opened(place.sink()):
        name, made = template_at(place)
    place.server.must("DELETE", f"/_index_template/{name}")
    place.server.must("PUT", f"/_index_template/other-{place.prefix}", made)
    with pytest.raises(Misconfigured, match=f"other-{place.prefix}.*same priority"):
        async with opened(place.sink()):
            """It does not open."""


# Data streams


async def test_a_data_stream_is_made_and_keeps_each_record_once_but_for_a_rollover(place: Place) -> None:
    """As documented, a record that is written again after a rollover is there twice."""
    stream = f"{place.prefix}-events"
    async with opened(place.sink(data_stream=stream)) as sink:
        await sink.write(mapped(10))
        assert (await sink.write(mapped(10))).flagged == {"duplicate": 10}
        documents = place.server.documents(stream)
        assert len(documents) == 10
        assert all(document.index.startswith(f".ds-{stream}-") for document in documents)
        place.server.must("POST", f"/{stream}/_rollover")
        assert (await sink.write(mapped(10))).flagged == {}
    assert len(place.server.documents(stream)) == 20


async def test_a_data_stream_without_a_template_makes_no_index_instead(place: Place) -> None:
    """It is misconfigured."""
    async with opened(place.sink(data_stream=f"{place.prefix}-events", manage_template=False)) as sink:
        with pytest.raises(Misconfigured, match="requires a data stream"):
            await sink.write(mapped(3))
    assert place.server.must("GET", f"/{place.prefix}*") == {}
