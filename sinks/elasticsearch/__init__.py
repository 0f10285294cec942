"""The Elasticsearch sink. Read sink, bulk (requests and replies), index (names and the template) and limiter."""

from sinks.elasticsearch.sink import SINK as SINK
