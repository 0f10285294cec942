"""Saved objects in the format of Kibana 8.9, which later versions migrate when they import it.

A Lens chart keeps what it shows as columns: buckets (by a field, over time), and metrics, each with an id. A share, such as
the failed rate, is a formula. Lens keeps its parts as columns too, named after it with X0, X1 and X2 at the end.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

DATA_VIEW = "btfeed"
"""The id of the data view."""
LAYER = "layer"
RECORDS = "___records___"
"""What Lens calls the field that counts documents."""
CORE_VERSION = "8.8.0"
VERSIONS = {"index-pattern": "8.0.0", "lens": "8.9.0", "map": "8.4.0", "dashboard": "8.9.0"}
"""The version of each type's format. Kibana refuses objects with a later one than its own."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A number of a chart.

    operation  what Lens calls it: count, sum, average, median, percentile, unique_count
    kql        only records that match
    share_of   the number is the share of records that match `kql` in those that match this
    decimals   None: as the data view says
    """

    id: str
    label: str
    operation: str = "count"
    field: str = RECORDS
    kql: str = ""
    share_of: str = ""
    percentile: int | None = None
    decimals: int | None = None

    def columns(self) -> dict[str, Object]:
        if self.share_of:
            return self._formula()
        params: Object = {"emptyAsNull": self.operation != "count"}
        if self.percentile is not None:
            params["percentile"] = self.percentile
        if self.decimals is not None:
            params["format"] = {"id": "number", "params": {"decimals": self.decimals}}
        return {self.id: _column(self.label, self.operation, self.field, self.kql, params)}

    def _formula(self) -> dict[str, Object]:
        part, whole, math = (f"{self.id}X{number}" for number in range(3))
        text = f"count(kql='{self.kql}') / count(kql='{self.share_of}')"
        label = f"Part of {self.label}"
        ast = {
            "type": "function",
            "name": "divide",
            "args": [part, whole],
            "location": {"min": 0, "max": len(text)},
            "text": text,
        }
        percent = {"id": "percent", "params": {"decimals": 1}}
        formula = {"formula": text, "isFormulaBroken": False, "format": percent}
        count: Object = {"emptyAsNull": False}
        return {
            self.id: _column(self.label, "formula", params=formula, references=[math]),
            part: _column(label, "count", RECORDS, self.kql, count),
            whole: _column(label, "count", RECORDS, self.share_of, count),
            math: _column(label, "math", params={"tinymathAst": ast}, references=[part, whole]),
        }


@dataclass(frozen=True)
class Terms:
    """A row, or a line, for each of the `size` most frequent values of a field."""

    id: str
    label: str
    field: str
    size: int = 10

    def column(self, order_by: str) -> Object:
        params = {
            "size": self.size,
            "orderBy": {"type": "column", "columnId": order_by},
            "orderDirection": "desc",
            "otherBucket": False,
            "missingBucket": False,
            "parentFormat": {"id": "terms"},
        }
        return _column(self.label, "terms", self.field, params=params) | {
            "dataType": "string",
            "isBucketed": True,
            "scale": "ordinal",
        }


@dataclass(frozen=True)
class Chart:
    """A Lens chart.

    metrics   all of them numbers of the same records, those that match `kql`. The first one orders rows, so it is no share
    terms     what a table has rows for, or a chart over time has lines for
    """

    id: str
    title: str
    kind: Literal["metric", "table", "line", "bar_stacked"]
    metrics: Sequence[Metric]
    kql: str = ""
    terms: Terms | None = None
    answers: str = ""

    def saved_object(self) -> Object:
        columns: dict[str, Object] = {}
        if self.terms:
            assert not self.metrics[0].share_of  # Lens can't order by a formula
            columns[self.terms.id] = self.terms.column(self.metrics[0].id)
        if self.kind in ("line", "bar_stacked"):
            columns["time"] = _time()
        for metric in self.metrics:
            columns |= metric.columns()
        layer = {"columnOrder": list(columns), "columns": columns, "incompleteColumns": {}, "sampling": 1}
        kind, visualization = self._visualization()
        attributes = {
            "title": self.title,
            "description": self.answers,
            "visualizationType": kind,
            "state": {
                "adHocDataViews": {},
                "datasourceStates": {
                    "formBased": {"layers": {LAYER: layer}},
                    "indexpattern": {"layers": {}},
                    "textBased": {"layers": {}},
                },
                "filters": [],
                "internalReferences": [],
                "query": {"language": "kuery", "query": self.kql},
                "visualization": visualization,
            },
        }
        return _saved("lens", self.id, attributes, [_data_view(f"indexpattern-datasource-layer-{LAYER}")])

    def _visualization(self) -> tuple[str, Object]:
        layer: Object = {"layerId": LAYER, "layerType": "data"}
        metrics = [metric.id for metric in self.metrics]
        if self.kind == "metric":
            return "lnsMetric", layer | {"metricAccessor": metrics[0]}
        if self.kind == "table":
            assert self.terms
            return "lnsDatatable", layer | {"columns": [{"columnId": name} for name in (self.terms.id, *metrics)]}
        series: Object = {"accessors": metrics, "seriesType": self.kind, "xAccessor": "time", "position": "top"}
        if self.terms:
            series["splitAccessor"] = self.terms.id
        axes = {"x": True, "yLeft": True, "yRight": True}
        return "lnsXY", {
            "preferredSeriesType": self.kind,
            "layers": [layer | series],
            "legend": {"isVisible": True, "position": "bottom"},
            "valueLabels": "hide",
            "fittingFunction": "None",
            "axisTitlesVisibilitySettings": {"x": False, "yLeft": False, "yRight": False},
            "gridlinesVisibilitySettings": axes,
            "tickLabelsVisibilitySettings": axes,
            "labelsOrientation": {"x": 0, "yLeft": 0, "yRight": 0},
        }


@dataclass(frozen=True)
class CountryMap:
    """A map of the world that is darker where more of the records that match `kql` come from.

    field  has the country's name, as Elastic Maps Service spells it
    """

    id: str
    title: str
    field: str
    label: str
    kql: str
    answers: str = ""

    def saved_object(self) -> Object:
        layers = [_background(), self._countries()]
        state = {
            "zoom": 1.2,
            "center": {"lat": 25, "lon": 5},
            "timeFilters": {"from": "now-24h", "to": "now"},
            "refreshConfig": {"isPaused": True, "interval": 0},
            "query": {"language": "kuery", "query": ""},
            "filters": [],
            "settings": {"autoFitToDataBounds": False},
        }
        attributes = {
            "title": self.title,
            "description": self.answers,
            "layerListJSON": _text(layers),
            "mapStateJSON": _text(state),
            "uiStateJSON": _text({"isLayerTOCOpen": False, "openTOCDetails": []}),
        }
        return _saved("map", self.id, attributes, [_data_view("layer_1_join_0_index_pattern")])

    def _countries(self) -> Object:
        join = f"{self.id}-join"
        right = {
            "type": "ES_TERM_SOURCE",
            "id": join,
            "indexPatternRefName": "layer_1_join_0_index_pattern",
            "term": self.field,
            "size": 300,
            "metrics": [{"type": "count", "label": self.label}],
            "whereQuery": {"language": "kuery", "query": self.kql},
            "applyGlobalQuery": True,
            "applyGlobalTime": True,
            "applyForceRefresh": True,
        }
        color = {
            "type": "ORDINAL",
            "color": "Blues",
            "field": {"name": f"__kbnjoin__count__{join}", "origin": "join"},
            "fieldMetaOptions": {"isEnabled": True, "sigma": 3},
        }
        return {
            "id": f"{self.id}-countries",
            "label": self.label,
            "type": "GEOJSON_VECTOR",
            "sourceDescriptor": {"type": "EMS_FILE", "id": "world_countries", "tooltipProperties": ["name"]},
            "joins": [{"leftField": "name", "right": right}],
            "style": {
                "type": "VECTOR",
                "isTimeAware": True,
                "properties": {
                    "fillColor": {"type": "DYNAMIC", "options": color},
                    "lineColor": {"type": "STATIC", "options": {"color": "#8c8c8c"}},
                    "lineWidth": {"type": "STATIC", "options": {"size": 1}},
                },
            },
            **_LAYER,
            "alpha": 0.75,
        }


def data_view(title: str, name: str, time_field: str, formats: Mapping[str, Object], runtime: Mapping[str, str]) -> Object:
    """A data view of the indexes that match `title`.

    formats  how Kibana shows fields
    runtime  fields that Kibana does not find in the mapping, and their types. Without a script, Elasticsearch takes their
             values from the documents
    """
    attributes = {
        "title": title,
        "name": name,
        "timeFieldName": time_field,
        "fieldFormatMap": _text(formats),
        "runtimeFieldMap": _text({field: {"type": kind} for field, kind in runtime.items()}),
        "fieldAttrs": "{}",
        "fields": "[]",
        "sourceFilters": "[]",
        "typeMeta": "{}",
    }
    return _saved("index-pattern", DATA_VIEW, attributes, [])


Placed = tuple[Chart | CountryMap, tuple[int, int, int, int]]
"""A panel and its place: x, y, width, height. A row has 48 columns."""


def dashboard(name: str, title: str, description: str, panels: Sequence[Placed]) -> Object:
    """A dashboard of the last day."""
    shown, references = [], []
    for number, (panel, (x, y, w, h)) in enumerate(panels, 1):
        index, kind = str(number), "map" if isinstance(panel, CountryMap) else "lens"
        shown.append(
            {
                "type": kind,
                "panelIndex": index,
                "panelRefName": f"panel_{index}",
                "gridData": {"i": index, "x": x, "y": y, "w": w, "h": h},
                "embeddableConfig": {"enhancements": {}},
                "version": VERSIONS["dashboard"],
            }
        )
        references.append({"type": kind, "id": panel.id, "name": f"{index}:panel_{index}"})
    options = {"useMargins": True, "hidePanelTitles": False, "syncColors": False, "syncCursor": True, "syncTooltips": False}
    search = {"query": {"language": "kuery", "query": ""}, "filter": []}
    attributes = {
        "title": title,
        "description": description,
        "panelsJSON": _text(shown),
        "optionsJSON": _text(options),
        "timeRestore": True,
        "timeFrom": "now-24h",
        "timeTo": "now",
        "kibanaSavedObjectMeta": {"searchSourceJSON": _text(search)},
        "version": 1,
    }
    return _saved("dashboard", name, attributes, references)


_LAYER: Object = {"alpha": 1, "visible": True, "minZoom": 0, "maxZoom": 24, "includeInFitToBounds": True}


def _background() -> Object:
    source = {"type": "EMS_TMS", "isAutoSelect": True, "lightModeDefault": "road_map_desaturated"}
    style = {"type": "EMS_VECTOR_TILE", "color": ""}
    kind = {"id": "background", "label": None, "type": "EMS_VECTOR_TILE"}
    return kind | {"locale": "autoselect", "sourceDescriptor": source, "style": style} | _LAYER


def _column(
    label: str,
    operation: str,
    field: str = "",
    kql: str = "",
    params: Object | None = None,
    references: Sequence[str] = (),
) -> Object:
    column: Object = {
        "label": label,
        "customLabel": True,
        "dataType": "number",
        "operationType": operation,
        "isBucketed": False,
        "scale": "ratio",
        "params": params or {},
    }
    if field:
        column["sourceField"] = field
    if kql:
        column["filter"] = {"language": "kuery", "query": kql}
    if references:
        column["references"] = list(references)
    return column


def _time() -> Object:
    params = {"interval": "auto", "includeEmptyRows": True, "dropPartials": False}
    time = {"dataType": "date", "isBucketed": True, "scale": "interval"}
    return _column("Time", "date_histogram", "timestamp", params=params) | time


def _data_view(name: str) -> Object:
    return {"type": "index-pattern", "id": DATA_VIEW, "name": name}


def _saved(kind: str, name: str, attributes: Object, references: Sequence[Object]) -> Object:
    return {
        "type": kind,
        "id": name,
        "attributes": attributes,
        "references": list(references),
        "coreMigrationVersion": CORE_VERSION,
        "typeMigrationVersion": VERSIONS[kind],
        "managed": False,
    }


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
