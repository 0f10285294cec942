"""The saved objects for Kibana: their form, and the fields that they name."""

import json
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import combinations
from typing import Any

import pytest

from btfeed.records.schema import CATEGORIES, MAPS, RECORD_FIELDS
from deploy.kibana import make
from deploy.kibana.objects import VERSIONS
from sinks.elasticsearch.index import IndexName
from sinks.elasticsearch.settings import ElasticsearchSettings
from tests.support.fakes import TRANSACTION
from tests.support.lens import conditions, panel

OBJECTS: list[dict[str, Any]] = [json.loads(line) for line in make.FILE.read_text(encoding="utf-8").splitlines()]
(VIEW,) = [saved["attributes"] for saved in OBJECTS if saved["type"] == "index-pattern"]
(DASHBOARD,) = [saved for saved in OBJECTS if saved["type"] == "dashboard"]
PANELS = [saved for saved in OBJECTS if saved["type"] in ("lens", "map")]
LENS = [saved for saved in PANELS if saved["type"] == "lens"]
TYPES = {field.name: field.type for field in RECORD_FIELDS}
VALUES = {"event.category": set(CATEGORIES), "event.outcome": {"success", "failure"}}


def named(saved: dict[str, Any]) -> str:
    return str(saved["id"])


def test_objects_have_what_kibana_imports() -> None:
    """A type, an id, and versions of their format, without which Kibana takes them for those of its first version."""
    for saved in OBJECTS:
        assert saved["typeMigrationVersion"] == VERSIONS[saved["type"]]
        assert saved["coreMigrationVersion"]
        assert saved["attributes"]["title"]
    assert len({saved["id"] for saved in OBJECTS}) == len(OBJECTS)


def test_references_lead_to_objects_of_the_file() -> None:
    """So that nothing is missing after the import, and every panel is on the dashboard."""
    there = {(saved["type"], saved["id"]) for saved in OBJECTS}
    for saved in OBJECTS:
        assert {(to["type"], to["id"]) for to in saved["references"]} <= there
        names = [to["name"] for to in saved["references"]]
        assert len(set(names)) == len(names)
    assert {to["id"] for to in DASHBOARD["references"]} == {saved["id"] for saved in PANELS}


def test_the_dashboard_shows_its_panels_side_by_side() -> None:
    """Each panel names its reference, lies within the 48 columns, and overlaps no other."""
    shown = json.loads(DASHBOARD["attributes"]["panelsJSON"])
    names = {to["name"]: to["type"] for to in DASHBOARD["references"]}
    for one in shown:
        assert names[f"{one['panelIndex']}:{one['panelRefName']}"] == one["type"]
        assert one["gridData"]["i"] == one["panelIndex"]
        assert 0 <= one["gridData"]["x"] < one["gridData"]["x"] + one["gridData"]["w"] <= 48
    for a, b in combinations([one["gridData"] for one in shown], 2):
        apart = (a["x"] + a["w"] <= b["x"], b["x"] + b["w"] <= a["x"], a["y"] + a["h"] <= b["y"], b["y"] + b["h"] <= a["y"])
        assert any(apart), (a, b)


def test_the_data_view_matches_the_indexes_of_the_sink() -> None:
    """Those that it writes to by default, and their time field is one that every record has."""
    settings = ElasticsearchSettings.model_validate({"hosts": ["http://localhost:9200"]})
    assert settings.index
    assert fnmatch(IndexName(settings.index).name_for(TRANSACTION, "2026-01-31"), VIEW["title"])
    (time,) = [field for field in RECORD_FIELDS if field.name == VIEW["timeFieldName"]]
    assert (time.type, time.always) == ("timestamp", True)


def test_the_data_view_names_fields_that_records_have() -> None:
    """Its formats do, and the fields that it adds are measures and dimensions, with their types."""
    runtime = json.loads(VIEW["runtimeFieldMap"])
    assert set(json.loads(VIEW["fieldFormatMap"])) <= TYPES.keys() | runtime.keys()
    kinds = {prefix.name: {"string": "keyword"}.get(prefix.type, prefix.type) for prefix in MAPS}
    for name, mapping in runtime.items():
        (kind,) = [kind for prefix, kind in kinds.items() if name.startswith(prefix)]
        assert mapping == {"type": kind}


@pytest.mark.parametrize("saved", PANELS, ids=named)
def test_panels_name_fields_that_records_have(saved: dict[str, Any]) -> None:
    """And measures and dimensions only if the data view adds them. Values of category and outcome exist."""
    found = panel(saved)
    assert found.fields
    assert found.fields <= TYPES.keys() | json.loads(VIEW["runtimeFieldMap"]).keys()
    queries = [found.kql, *(column["filter"]["query"] for column in found.columns.values() if "filter" in column)]
    for name, value in (one for query in queries for one in conditions(query)):
        assert value is None or TYPES[name] == "boolean" or value in VALUES[name]


@pytest.mark.parametrize("saved", LENS, ids=named)
def test_numbers_are_computed_from_numbers(saved: dict[str, Any]) -> None:
    """Sums, averages and percentiles are of numeric fields, rows of texts, and charts over time of times."""
    kinds = {name: mapping["type"] for name, mapping in json.loads(VIEW["runtimeFieldMap"]).items()} | TYPES
    allowed: dict[str, set[str | None]] = {"terms": {"string", "keyword"}, "date_histogram": {"timestamp"}, "count": {None}}
    for column in panel(saved).columns.values():
        if "sourceField" in column:
            kind = kinds.get(column["sourceField"])
            assert kind in allowed.get(column["operationType"], {"long", "double"})


@pytest.mark.parametrize("saved", LENS, ids=named)
def test_charts_show_columns_that_exist(saved: dict[str, Any]) -> None:
    """The chart names each column that isn't a part of a formula, and no other."""
    state = saved["attributes"]["state"]
    ((layer, columns),) = state["datasourceStates"]["formBased"]["layers"].items()
    assert saved["references"][0]["name"] == f"indexpattern-datasource-layer-{layer}"
    assert set(columns["columnOrder"]) == columns["columns"].keys()
    found = panel(saved)
    assert sorted(accessors(state["visualization"])) == sorted([*found.buckets, *found.shown])


@pytest.mark.parametrize("saved", LENS, ids=named)
def test_formulas_are_what_their_parts_compute(saved: dict[str, Any]) -> None:
    """Lens shows the parts, and offers the text to whoever edits the chart."""
    columns = panel(saved).columns
    for name, column in columns.items():
        if column["operationType"] == "formula":
            part, whole, math = (columns[f"{name}X{number}"] for number in range(3))
            kqls = [one["filter"]["query"] for one in (part, whole)]
            assert column["references"] == [f"{name}X2"]
            assert column["params"]["formula"] == "count(kql='{}') / count(kql='{}')".format(*kqls)
            assert math["references"] == math["params"]["tinymathAst"]["args"] == [f"{name}X0", f"{name}X1"]


def accessors(visualization: dict[str, Any]) -> Iterator[str]:
    """The columns that a chart names."""
    for layer in visualization.get("layers", [visualization]):
        yield from layer.get("accessors", [])
        yield from (layer[key] for key in ("metricAccessor", "xAccessor", "splitAccessor") if key in layer)
        yield from (column["columnId"] for column in layer.get("columns", []))
