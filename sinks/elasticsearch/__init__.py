"""The Elasticsearch sink. Read sink, bulk (requests and replies), index (names and the template), limiter and hosts."""

from sinks.elasticsearch.sink import SINK as SINK
