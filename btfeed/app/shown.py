"""What the admin listener shows of a server when somebody asks: its configuration, and the newest posts."""

from collections.abc import Mapping
from typing import Any

import structlog

from btfeed.app.deliveries import Deliveries
from btfeed.config import Config
from btfeed.config.effective import redacted
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.journal.base import LATEST, Entry
from sinks.batch import Batch

log = structlog.get_logger()

POSTS = 5
"""Posts of a partition whose records are shown."""
MAX_BYTES = 2**20
"""Bytes of their bodies. A post that is larger is left out."""


class ShownConfig:
    """The configuration without secrets, made once for each reload."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._shown: Mapping[str, Any] = {}

    def of(self, config: Config) -> Mapping[str, Any]:
        if config is not self._config:
            self._config = config
            try:
                self._shown = redacted(config)
            except Exception as error:
                log.error("bug in the status", exc_info=error)
                self._shown = {}
        return self._shown


async def newest(deliveries: Deliveries, mapped_posts: MappedPosts) -> Batch:
    """The records of the newest posts in the journal, as they are mapped now, the newest last. Raises JournalError."""
    for sink in deliveries.statuses:  # they all have the same posts
        batches = []
        for outlet in filter(lambda each: each.partition >= 0, deliveries.outlets(sink)):
            end = await outlet.find(LATEST)
            entries: list[Entry] = []
            begin = max(1, end - POSTS)
            while begin < end and (found := await outlet.read(begin, MAX_BYTES)):
                entries += [each for each in found if len(each.post.body) <= MAX_BYTES]
                begin = found[-1].seq + 1
            batches.append(await mapped_posts.preview(entries))
        return Batch.concat(batches)
    return Batch()
