"""What /metrics shows: what was counted as it happened, and figures that are found out when somebody asks."""

import asyncio
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
        self._unknown: set[str] = set()  # sinks whose backlog is not known, which the log was told

    async def text(self) -> bytes:
        """The metrics in Prometheus' format."""
        await self.update()
        return generate_latest(self._metrics.registry)

    async def update(self) -> tuple[dict[str, Backlog], list[dict[str, Any]] | None]:
        """Update the metrics that are not kept up to date as things happen. Returns the backlogs by sink, and what /status
        shows of dead letters: without what is not known, and None if the journal fails or does not answer."""
        self._metrics.ready.set(self._why_not_ready() is None)
        self._metrics.show_sinks(self._sinks)
        backlogs = await self.backlogs()
        self._update_backlogs(backlogs)
        answers = bool(backlogs) or not self._sinks
        with suppress(JournalError, TimeoutError):
            async with self._clock.timeout(BACKLOG_TIMEOUT):
                if answers:
                    return backlogs, self._update_dead_letters(await self._kept())
        self._update_dead_letters(())  # no figures rather than old ones
        return backlogs, None

    async def backlogs(self) -> dict[str, Backlog]:
        """By sink, without those that are not known: the log tells why."""
        names = list(self._sinks)
        found = await asyncio.gather(*map(self._backlog, names))
        return {name: backlog for name, backlog in zip(names, found, strict=True) if backlog}

    async def _backlog(self, name: str) -> Backlog | None:
        try:
            async with self._clock.timeout(BACKLOG_TIMEOUT):
                backlog = await self._journal.backlog(name)
        except (JournalError, TimeoutError) as error:
            if name not in self._unknown:
                why = str(error) or f"the journal did not answer in {BACKLOG_TIMEOUT:g} s"
                log.warning("backlog unknown", sink=name, error=why)
            self._unknown.add(name)
            return None
        if name in self._unknown:
            log.info("backlog known again", sink=name, posts=backlog.posts)
        self._unknown.discard(name)
        return backlog

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
