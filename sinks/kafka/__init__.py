"""The Kafka sink. Read sink, then messages (from a batch to messages), producer, topics, access and registry."""

from sinks.kafka.sink import SINK as SINK
