"""Writes down what Dynatrace's apps Dashboards and Notebooks import. `make docs` calls it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.dynatrace.queries import PROVIDERS, QUERIES, Query

HERE = Path(__file__).parent
TITLE = "AppMon business transactions"
DASHBOARD_VERSION, NOTEBOOK_VERSION = 21, "7"
"""The versions of the apps' formats; one is a number, the other a text."""
COLUMNS = 24
ALL = "3420b2ac-f1cf-4b24-b62d-61ba1ba8ed05*"
"""What Dashboards writes for all values of a variable."""
TIMES = {"from": "now()-24h", "to": "now()"}
LIMITS = {
    "maxResultRecords": 1000,
    "defaultScanLimitGbytes": 500,
    "maxResultMegaBytes": 1,
    "defaultSamplingRatio": 10,
    "enableSampling": False,
}
INTRODUCTION = f"""\
# {TITLE}

What btfeed receives from AppMon's Business Transactions feed. Replace `web-shop` in each query by your application."""


def dashboard() -> dict[str, Any]:
    """A tile for each query, and a variable to choose applications."""
    variable = {
        "version": 2,
        "key": "Application",
        "type": "query",
        "visible": True,
        "editable": True,
        "input": PROVIDERS,
        "multiple": True,
        "defaultValue": [ALL],
    }
    tiles = [
        {
            "type": "data",
            "title": query.title,
            "query": query.dql("in(event.provider, array($Application))"),
            "visualization": query.visualization,
            "visualizationSettings": _settings(query),
            "querySettings": LIMITS,
        }
        for query in QUERIES
    ]
    return {
        "version": DASHBOARD_VERSION,
        "variables": [variable],
        "tiles": {str(number): tile for number, tile in enumerate(tiles)},
        "layouts": {str(number): layout for number, layout in enumerate(_layouts())},
        "importedWithCode": False,
        "settings": {"defaultTimeframe": {"value": TIMES, "enabled": True}},
        "annotations": [],
    }


def notebook() -> dict[str, Any]:
    """A section for each query, after the question that it answers."""
    sections: list[dict[str, Any]] = [{"type": "markdown", "markdown": INTRODUCTION}]
    for query in QUERIES:
        sections += [
            {"type": "markdown", "markdown": f"## {query.title}\n\n{query.question}"},
            {
                "type": "dql",
                "title": query.title,
                "showTitle": False,
                "showInput": True,
                "state": {
                    "input": {"value": query.dql('event.provider == "web-shop"'), "timeframe": TIMES},
                    "visualization": query.visualization,
                    "visualizationSettings": _settings(query),
                    "querySettings": LIMITS,
                },
            },
        ]
    return {
        "version": NOTEBOOK_VERSION,
        "defaultTimeframe": TIMES,
        "defaultSegments": [],
        "sections": [{"id": str(number)} | section for number, section in enumerate(sections, 1)],
    }


def _settings(query: Query) -> dict[str, Any]:
    settings: dict[str, Any] = {"autoSelectVisualization": False}
    if query.shows:
        unit = {"unitCategory": "unspecified", "baseUnit": "count", "displayUnit": None, "delimiter": True, "added": 0}
        figure = {"identifier": query.shows, "decimals": query.decimals, "suffix": query.suffix}
        settings["singleValue"] = {"recordField": query.shows, "labelMode": "none"}
        settings["unitsOverrides"] = [unit | figure]
    return settings


def _layouts() -> Iterator[dict[str, int]]:
    """The places of the tiles, row by row."""
    x = y = 0
    for query in QUERIES:
        width, height = query.size
        yield {"x": x, "y": y, "w": width, "h": height}
        x += width
        if x == COLUMNS:
            x, y = 0, y + height


def texts() -> dict[Path, str]:
    """What belongs in each file."""
    documents = {"btfeed-dashboard.json": dashboard(), "btfeed-notebook.json": notebook()}
    return {HERE / name: json.dumps(one, ensure_ascii=False, indent=2) + "\n" for name, one in documents.items()}
