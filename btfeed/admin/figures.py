"""What /metrics shows: what was counted as it happened, and figures that are found out when somebody asks."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from prometheus_client import generate_latest

from btfeed.journal.base import Backlog, Backlogs, JournalError, Kept
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import ShownStatus
from sinks.shared.clock import Clock

log = structlog.get_logger()

BACKLOG_TIMEOUT = 2.0
"""Seconds to wait for the journal's figures. /status and /metrics answer without them afterwards."""


class Figures:
    """Metrics as Prometheus text, from `metrics` and what the parts of the server say.

    kept           gives the dead letters that are kept
    why_not_ready  why a post would not be accepted now, None if it would
    """

    def __init__(
        self,
        journal: Backlogs,
        kept: Callable[[], Awaitable[Sequence[Kept]]],
        why_not_ready: Callable[[], str | None],
        sinks: Mapping[str, ShownStatus],
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._kept = kept
        self._why_not_ready = why_not_ready
        self._sinks = sinks
        self._metrics = metrics
        self._clock = clock

    async def text(self) -> bytes:
        """The metrics in Prometheus' format."""
        await self.update()
        return generate_latest(self._metrics.registry)

    async def update(self) -> tuple[dict[str, Backlog], list[dict[str, Any]] | None]:
        """Update the metrics that are not kept up to date as things happen. Returns the backlogs by sink, and what /status
        shows of dead letters: nothing and None if the journal fails or does not answer."""
        self._metrics.ready.set(self._why_not_ready() is None)
        self._metrics.show_sinks(self._sinks)
        try:
            async with self._clock.timeout(BACKLOG_TIMEOUT):
                backlogs = await self._read_backlogs()
                kept = await self._kept()
        except (JournalError, TimeoutError) as error:
            log.debug("backlog unknown", error=str(error) or "the journal did not answer in time")
            self._update_backlogs({})  # no figures rather than old ones
            self._update_dead_letters(())
            return {}, None
        self._update_backlogs(backlogs)
        return backlogs, self._update_dead_letters(kept)

    async def backlogs(self) -> dict[str, Backlog]:
        """By sink; none if the journal fails or does not answer."""
        with suppress(JournalError, TimeoutError):
            async with self._clock.timeout(BACKLOG_TIMEOUT):
                return await self._read_backlogs()
        return {}

    async def _read_backlogs(self) -> dict[str, Backlog]:
        return {name: await self._journal.backlog(name) for name in list(self._sinks)}

    def _update_backlogs(self, backlogs: Mapping[str, Backlog]) -> None:
        self._metrics.backlog_posts.clear()
        self._metrics.backlog_age.clear()
        for name in backlogs.keys() & self._sinks.keys():  # others were removed meanwhile
            self._metrics.backlog_posts.labels(name).set(backlogs[name].posts)
            self._metrics.backlog_age.labels(name).set(backlogs[name].age)

    def _update_dead_letters(self, kept: Sequence[Kept]) -> list[dict[str, Any]]:
        self._metrics.dead_letters_kept.clear()
        self._metrics.dead_letters_oldest.clear()
        shown = []
        for sink, cause, letters, oldest in kept:
            age = max(0.0, round(self._clock.time() - oldest / 1000, 3))
            self._metrics.dead_letters_kept.labels(sink, cause).set(letters)
            self._metrics.dead_letters_oldest.labels(sink, cause).set(age)
            shown.append({"sink": sink, "reason": cause, "letters": letters, "oldest_age_seconds": age})
        return shown
