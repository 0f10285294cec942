"""The Elasticsearch sink. Read sink, bulk (requests and replies), index (names and the template), then the rest."""

from sinks.elasticsearch.sink import SINK as SINK
