"""The Elasticsearch sink. Read sink, bulk (requests and replies), index (names and the template), client, hosts, limiter."""

from sinks.elasticsearch.sink import SINK as SINK
