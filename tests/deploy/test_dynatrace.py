"""The dashboard and the notebook for Dynatrace: their form, and what their queries name. No Dynatrace runs them."""

import json
from itertools import pairwise
from typing import Any

import pytest

from btfeed.records.schema import CATEGORIES, MAPS, RECORD_FIELDS
from deploy.dynatrace import make
from deploy.dynatrace.queries import PROVIDERS, QUERIES
from tests.support.dql import fields, tokens

DASHBOARD: dict[str, Any]
NOTEBOOK: dict[str, Any]
DASHBOARD, NOTEBOOK = (json.loads(path.read_text(encoding="utf-8")) for path in make.texts())
TILES = [tile["query"] for tile in DASHBOARD["tiles"].values()]
SECTIONS = [section["state"]["input"]["value"] for section in NOTEBOOK["sections"] if section["type"] == "dql"]
NAMES = {field.name for field in RECORD_FIELDS}
PREFIXES = tuple(prefix.name for prefix in MAPS)


@pytest.mark.parametrize("query", [*TILES, *SECTIONS, PROVIDERS])
def test_queries_name_fields_that_records_have(query: str) -> None:
    """Or measures and dimensions, whose names users choose."""
    named = fields(query)
    assert named
    assert {name for name in named if not name.startswith(PREFIXES)} <= NAMES
    assert all(name.removeprefix(prefix) for name in named for prefix in PREFIXES)


@pytest.mark.parametrize("query", [*TILES, *SECTIONS])
def test_queries_are_of_the_application_and_count_an_event_once(query: str) -> None:
    """And they compare category and outcome with values that these have."""
    first, provider, _, once = query.splitlines()[:4]
    assert first == "fetch bizevents"
    assert provider.startswith("| filter ")
    assert fields(f"{first}\n{provider}") == {"event.provider"}
    assert once == "| dedup event.id"
    texts = {token.text.strip('"') for token in tokens(query) if token.kind == "text"}
    assert texts <= {*CATEGORIES, "failure", "success", "web-shop"}


@pytest.mark.parametrize("query", QUERIES, ids=[query.title for query in QUERIES])
def test_single_values_show_a_column_of_their_query(query: Any) -> None:
    """Whose name the query defines."""
    words = [token.text for token in tokens(query.dql("true"))]
    assert (query.visualization == "singleValue") == bool(query.shows)
    assert not query.shows or (query.shows, "=") in pairwise(words)


@pytest.mark.parametrize("query", QUERIES, ids=[query.title for query in QUERIES])
def test_charts_over_time_get_time_series(query: Any) -> None:
    """And only these."""
    assert (query.visualization in ("lineChart", "barChart")) == ("makeTimeseries" in query.rest)


def test_the_dashboard_has_the_form_of_the_app() -> None:
    """Of version 21: tiles, each with its place in 24 columns, without overlaps, and variables that queries use."""
    assert DASHBOARD["version"] == 21
    assert DASHBOARD["tiles"].keys() == DASHBOARD["layouts"].keys()
    taken: set[tuple[int, int]] = set()
    for place in DASHBOARD["layouts"].values():
        cells = {
            (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert all(0 <= x < 24 for x, _ in cells)
        taken |= cells
    used = {token.text for query in TILES for token in tokens(query) if token.kind == "variable"}
    assert used == {f"${variable['key']}" for variable in DASHBOARD["variables"]}
    keys = {"type", "title", "query", "visualization", "visualizationSettings", "querySettings"}
    assert all(tile.keys() == keys and tile["type"] == "data" for tile in DASHBOARD["tiles"].values())


def test_the_notebook_has_the_form_of_the_app() -> None:
    """Of version 7: sections with an id of their own, text or a query without a stored result."""
    assert NOTEBOOK["version"] == "7"
    ids = [section["id"] for section in NOTEBOOK["sections"]]
    assert len(set(ids)) == len(ids)
    for section in NOTEBOOK["sections"]:
        if section["type"] == "markdown":
            assert section["markdown"]
        else:
            assert section["type"] == "dql"
            assert section["state"].keys() >= {"input", "visualization"}
            assert "result" not in section["state"]
    assert not any(token.kind == "variable" for query in SECTIONS for token in tokens(query))


@pytest.mark.parametrize(
    "query",
    [
        "fetch bizevents | filter event.nmae == 1 | limit 1",
        "fetch bizevents | summarize visits = count(), by: { country }",
        "fetch bizevents | fieldsAdd a = b | fieldsAdd b = 1",
    ],
)
def test_a_wrong_name_is_noticed(query: str) -> None:
    """A misspelt field, one without its prefix, a column that is used before it is defined."""
    assert not fields(query) <= NAMES


@pytest.mark.parametrize("query", ["fetch bizevents | sumarize count()", "fetch bizevents | filter in(a", 'fetch "b'])
def test_what_is_not_dql_is_noticed(query: str) -> None:
    """An unknown command, an open bracket, an open string."""
    with pytest.raises(ValueError, match=r"is none of|stays open|not DQL"):
        fields(query)
