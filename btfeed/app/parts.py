"""Builds each part of the chain from its settings."""

from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.sink_config import SinkConfig
from btfeed.journal.base import Journal
from btfeed.records.schema import MAPS, RECORD_FIELDS
from btfeed.telemetry.metrics import Metrics
from sinks.base import Sink, SinkContext


def create_sink(name: str, config: SinkConfig) -> Sink:
    return config.type.create(config.settings, SinkContext(name, RECORD_FIELDS, MAPS))


def create_delivery(name: str, sink: SinkConfig, journal: Journal, feed: MappedPosts, metrics: Metrics) -> Delivery:
    common = sink.common
    return Delivery(name, create_sink(name, sink), sink.type.serial, common.delivery, common.filter, journal, feed, metrics)
