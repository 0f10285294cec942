"""Builds each part of the chain from its settings."""

from functools import partial

from btfeed.delivery.lines import lines
from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.shared_sink import SharedSink
from btfeed.delivery.sink_config import SinkConfig
from btfeed.journal.base import Outlet
from btfeed.records.schema import MAPS, RECORD_FIELDS
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus
from btfeed.telemetry.tap import Taps
from sinks.base import Sink, SinkContext
from sinks.batch import Batch


def create_sink(name: str, config: SinkConfig, part: str = "", transactional_id: str = "") -> Sink:
    """part, transactional_id: see SinkContext."""
    context = SinkContext(name, RECORD_FIELDS, MAPS, part=part, transactional_id=transactional_id)
    return config.type.create(config.settings, context)


def create_delivery(
    name: str,
    config: SinkConfig,
    sink: Sink,
    outlet: Outlet,
    mapped_posts: MappedPosts,
    metrics: Metrics,
    status: SinkStatus,
    taps: Taps,
    shared: SharedSink | None = None,
) -> Delivery:
    """shared: what `sink` is a use of, if anything."""
    common = config.common

    def tap(batch: Batch) -> None:
        taps.offer(name, batch, partial(lines, name, sink))

    return Delivery(
        name, sink, config.type.serial, common.delivery, common.filter, outlet, mapped_posts, metrics, status,
        tap=tap, shared=shared, transactional=config.type.transactional(config.settings),
    )  # fmt: skip
