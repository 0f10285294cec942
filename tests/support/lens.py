"""What a panel in deploy/kibana/btfeed.ndjson asks Elasticsearch, and the same computed from the records.

Both follow the definition in the file, so they change with it. They know the operations that the panels use, and no others.
"""

import json
import math
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from deploy.kibana.objects import RECORDS

HOUR = 3_600_000
Record = Mapping[str, Any]
Key = tuple[Any, ...]
Row = dict[str, float | None]
"""The numbers of a row, by column."""
_CONDITION = re.compile(r'([\w.]+) : (?:"([^"]*)"|(\*|\w+))')
_MATH: dict[str, Callable[[float, float], float]] = {"divide": operator.truediv}


def conditions(kql: str) -> list[tuple[str, str | None]]:
    """Field and value of each of the conditions joined by `and`. None: the field is there, whatever its value."""
    found = []
    for part in kql.split(" and ") if kql else []:
        match = _CONDITION.fullmatch(part)
        assert match, part
        name, quoted, word = match.groups()
        found.append((name, None if word == "*" else quoted if word is None else word))
    return found


def query_of(kql: str) -> dict[str, Any]:
    """The query that Kibana makes of it."""
    parts = [{"exists": {"field": name}} if value is None else {"match": {name: value}} for name, value in conditions(kql)]
    return {"bool": {"filter": parts}}


def matches(kql: str, record: Record) -> bool:
    """Whether it finds a record."""

    def text(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    return all(name in record and (value is None or text(record[name]) == value) for name, value in conditions(kql))


def milliseconds(timestamp: str) -> int:
    return round(datetime.fromisoformat(timestamp).timestamp() * 1000)


@dataclass(frozen=True)
class Panel:
    """A panel: its query, and its columns in the order in which Lens nests them. fields: all fields that it names."""

    title: str
    kql: str
    columns: Mapping[str, Mapping[str, Any]]
    kind: str = "lens"
    fields: set[str] = field(default_factory=set)

    @property
    def buckets(self) -> list[str]:
        return [name for name, column in self.columns.items() if column["isBucketed"]]

    @property
    def metrics(self) -> list[str]:
        return [name for name, column in self.columns.items() if not column["isBucketed"]]

    @property
    def shown(self) -> list[str]:
        """The metrics that are no part of a formula."""
        parts = {part for column in self.columns.values() for part in column.get("references", ())}
        return [name for name in self.metrics if name not in parts]

    # What it asks

    def request(self, since: int, until: int, runtime: Mapping[str, Any]) -> dict[str, Any]:
        """The search for records from `since` to `until`, in milliseconds."""
        body = query_of(self.kql)
        body["bool"]["filter"].append({"range": {"timestamp": {"gte": since, "lte": until, "format": "epoch_millis"}}})
        return {
            "size": 0,
            "track_total_hits": True,
            "runtime_mappings": runtime,
            "query": body,
            "aggs": self._aggregations(self.buckets),
        }

    def _aggregations(self, buckets: Sequence[str]) -> dict[str, Any]:
        if not buckets:
            return {name: metric for name in self.metrics if (metric := self._metric(name))}
        name, *rest = buckets
        column = self.columns[name]
        params = column["params"]
        if column["operationType"] == "terms":
            agg: dict[str, Any] = {"terms": {"field": column["sourceField"], "size": params["size"]}}
            order = params["orderBy"]["columnId"]
            assert (params["otherBucket"], params["missingBucket"]) == (False, False)
            plain = self.columns[order]["operationType"] == "count" and "filter" not in self.columns[order]
            assert plain, f"{self.title}: rows are ordered by something else than how many records they have"
            agg["terms"]["order"] = {"_count": params["orderDirection"]}
        else:
            assert column["operationType"] == "date_histogram", column
            agg = {"date_histogram": {"field": column["sourceField"], "fixed_interval": "1h", "min_doc_count": 0}}
        return {name: agg | {"aggs": self._aggregations(rest)}}

    def _metric(self, name: str) -> dict[str, Any] | None:
        column = self.columns[name]
        operation, params = column["operationType"], column["params"]
        kinds: dict[str, tuple[str, dict[str, Any]]] = {
            "sum": ("sum", {}),
            "average": ("avg", {}),
            "median": ("percentiles", {"percents": [50]}),
            "percentile": ("percentiles", {"percents": [params.get("percentile")]}),
        }
        if operation == "count" and "filter" in column:
            return {"filter": query_of(column["filter"]["query"])}
        if operation in ("count", "formula", "math"):
            return None
        assert "filter" not in column
        kind, more = kinds[operation]
        return {kind: {"field": column["sourceField"]} | more}

    # What it shows

    def answered(self, answer: Mapping[str, Any]) -> dict[Key, Row]:
        """The rows in Elasticsearch's answer, without empty ones."""
        rows: dict[Key, Row] = {}

        def read(found: Mapping[str, Any], count: int, buckets: Sequence[str], key: Key) -> None:
            if not buckets:
                rows[key] = self._finished({name: self._value(name, found, count) for name in self.metrics})
                return
            for bucket in found[buckets[0]]["buckets"]:
                if bucket["doc_count"]:
                    read(bucket, bucket["doc_count"], buckets[1:], (*key, bucket["key"]))

        read(answer.get("aggregations", {}), answer["hits"]["total"]["value"], self.buckets, ())
        return rows

    def _value(self, name: str, found: Mapping[str, Any], count: int) -> float | None:
        if self.columns[name]["operationType"] == "count" and "filter" not in self.columns[name]:
            return count
        if name not in found:  # of a formula
            return None
        value: float | None
        if "values" in found[name]:
            (value,) = found[name]["values"].values()
        else:
            value = found[name].get("value", found[name].get("doc_count"))
        return value

    def computed(self, records: Sequence[Record]) -> dict[Key, list[Record]]:
        """The records of each row, by its key."""
        groups: dict[Key, list[Record]] = defaultdict(list)
        for record in records:
            if matches(self.kql, record):
                key = tuple(self._key(name, record) for name in self.buckets)
                if None not in key:
                    groups[key].append(record)
        return groups

    def _key(self, name: str, record: Record) -> Any:
        column = self.columns[name]
        if column["operationType"] == "date_histogram":
            return milliseconds(record[column["sourceField"]]) // HOUR * HOUR
        return record.get(column["sourceField"])

    def values(self, name: str, records: Sequence[Record]) -> list[float]:
        """What a metric is computed from: the values of its field in the records that it counts."""
        column = self.columns[name]
        kql, source = column.get("filter", {}).get("query", ""), column["sourceField"]
        counted = [record for record in records if matches(kql, record)]
        return [1.0] * len(counted) if source == RECORDS else [record[source] for record in counted if source in record]

    def row(self, records: Sequence[Record]) -> Row:
        """The numbers that need no estimate, of one row's records."""
        found: Row = {}
        for name in self.metrics:
            operation = self.columns[name]["operationType"]
            values = self.values(name, records) if "sourceField" in self.columns[name] else []
            if operation in ("count", "sum"):
                found[name] = math.fsum(values)
            elif operation == "average":
                found[name] = math.fsum(values) / len(values) if values else None
        return self._finished(found)

    def _finished(self, row: Row) -> Row:
        """The row with its formulas computed."""
        for kind in ("math", "formula"):
            for name, column in self.columns.items():
                if column["operationType"] == kind == "math":
                    tree = column["params"]["tinymathAst"]
                    left, right = (row[part] for part in tree["args"])
                    row[name] = _MATH[tree["name"]](left or 0, right) if right else None
                elif column["operationType"] == kind:
                    (reference,) = column["references"]
                    row[name] = row[reference]
        return row


def panel(saved: Mapping[str, Any]) -> Panel:
    """The panel that a saved object describes. A map becomes a count by country."""
    attributes = saved["attributes"]
    if saved["type"] == "map":
        (join,) = [join["right"] for layer in json.loads(attributes["layerListJSON"]) for join in layer.get("joins", ())]
        assert join["metrics"][0]["type"] == "count"
        kql = join["whereQuery"]["query"]
        params = {
            "size": join["size"],
            "orderBy": {"columnId": "count"},
            "orderDirection": "desc",
            "otherBucket": False,
            "missingBucket": False,
        }
        terms = {"isBucketed": True, "operationType": "terms", "sourceField": join["term"], "params": params}
        count = {"isBucketed": False, "operationType": "count", "sourceField": RECORDS, "params": {}}
        columns: Mapping[str, Mapping[str, Any]] = {"country": terms, "count": count}
    else:
        state = attributes["state"]
        (layer,) = state["datasourceStates"]["formBased"]["layers"].values()
        assert not state["filters"]
        kql, columns = state["query"]["query"], {name: layer["columns"][name] for name in layer["columnOrder"]}
    fields = {column["sourceField"] for column in columns.values() if "sourceField" in column} - {RECORDS}
    for text in (kql, *(column["filter"]["query"] for column in columns.values() if "filter" in column)):
        fields |= {name for name, _ in conditions(text)}
    return Panel(attributes["title"], kql, columns, saved["type"], fields)
