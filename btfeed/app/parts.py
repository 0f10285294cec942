"""Builds each part of the chain from its settings."""

from collections.abc import Callable
from functools import partial

from btfeed.delivery.lines import lines
from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.sink_config import SinkConfig
from btfeed.journal.base import Outlet
from btfeed.records.schema import MAPS, RECORD_FIELDS
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus
from btfeed.telemetry.tap import Taps
from sinks.base import Sink, SinkContext
from sinks.batch import Batch


def create_sink(name: str, config: SinkConfig) -> Sink:
    return config.type.create(config.settings, SinkContext(name, RECORD_FIELDS, MAPS))


def create_delivery(
    name: str,
    config: SinkConfig,
    outlet: Outlet,
    mapped_posts: MappedPosts,
    metrics: Metrics,
    status: SinkStatus,
    taps: Taps,
    instrument: Callable[[str, Sink], Sink],
) -> Delivery:
    """A delivery with a sink of its own. instrument: see Instruments.sink."""
    sink, common = instrument(name, create_sink(name, config)), config.common

    def tap(batch: Batch) -> None:
        taps.offer(name, batch, partial(lines, name, sink))

    return Delivery(
        name, sink, config.type.serial, common.delivery, common.filter, outlet, mapped_posts, metrics, status, tap=tap
    )
