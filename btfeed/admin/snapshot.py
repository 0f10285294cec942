"""The snapshot of a server: what /status answers, and what the page shows. docs/status.md describes every field.

It is bounded, whatever is counted: lists have a maximum length, with the number of what is left out beside them, and names
and messages from elsewhere are cut.
"""

import heapq
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from operator import itemgetter
from typing import Any

from btfeed import native
from btfeed.admin.answers import rounded
from btfeed.admin.figures import BACKLOG_TIMEOUT, Figures
from btfeed.admin.letters import Letters
from btfeed.admin.parts import Parts
from btfeed.admin.sampler import Sampler
from btfeed.admin.sink_words import caught_up_in, words
from btfeed.http.reasons import REASONS, Reason
from btfeed.journal.base import Backlog, JournalError
from btfeed.telemetry.metrics import Reload
from btfeed.telemetry.trends import Trends, delivered_records, received_occurrences, received_posts, refused_posts
from btfeed.telemetry.wording import cut, size
from sinks.shared.clock import Clock

VERSION = 1
"""Grows when a field goes or changes its meaning. New fields do not count."""
MAX_BLOCKED = 100
"""Blocked destinations of a sink that are listed: those for which most records wait."""
MAX_VIOLATIONS = 200
"""Violations that are listed: the most frequent."""
MAX_ERRORS = 50
"""Errors of a reload that are listed."""
MAX_MESSAGE = 1_000
"""Characters of an error."""


class Snapshots:
    """Makes snapshots of one server."""

    def __init__(self, parts: Parts, figures: Figures, sampler: Sampler, letters: Letters, clock: Clock) -> None:
        self._parts = parts
        self._figures = figures
        self._sampler = sampler
        self._letters = letters
        self._clock = clock

    async def read(self, private: bool) -> dict[str, Any]:
        """private: with the configuration, samples of dead letters, and what destinations say, which are null otherwise."""
        backlogs, kept = await self._figures.update()
        reason, metrics, now = self._parts.why_not_ready(), self._parts.metrics, round(self._clock.time() * 1000)
        uptime, counts, trends = self._sampler.uptime, metrics.summary(), self._sampler.trends
        return {
            "version": self._parts.version,
            "snapshot": VERSION,
            **self._parts.identity,
            "time": now,
            "mapping": native.PATH,
            "uptime_seconds": round(uptime, 3),
            "started": now - round(uptime * 1000),
            "ready": reason is None,
            "refusing": reason,
            "reload": _reload(metrics.last_reload),
            "failed_restart": asdict(metrics.failed_restart) if metrics.failed_restart else None,
            "last_post_time": metrics.last_post or None,
            "certificates": metrics.certificates(),
            "certificates_begin": metrics.certificates_begin,
            "rates": _rates(trends),
            "sources": self._sources(),
            "more_sources": metrics.details.more_sources,
            "refusals": self._refusals(counts),
            "tls_failures": self._tls_failures(),
            "journal": self._journal(counts),
            "counts": counts,
            "violations": [
                {"transaction": cut(transaction), "field": cut(field), "rule": rule, "count": count}
                for (transaction, field, rule), count in metrics.violations.most_common(MAX_VIOLATIONS)
            ],
            "more_violations": max(0, len(metrics.violations) - MAX_VIOLATIONS),
            "dead_letters": await self._dead_letters(kept, private),
            "sinks": await self._sinks(backlogs, kept is not None, now, private),
            "configuration": self._parts.configuration() if private else None,
        }

    def _sources(self) -> list[dict[str, Any]]:
        sources = self._parts.metrics.details.sources
        shown = [
            {
                "server": name,
                "last_post_time": each.last_post,
                "posts": each.posts,
                "occurrences": dict(each.occurrences),
            }
            for name, each in sources.items()
        ]
        return sorted(shown, key=itemgetter("last_post_time"), reverse=True)

    def _refusals(self, counts: Mapping[str, Any]) -> list[dict[str, Any]]:
        last, lost = self._parts.metrics.details.refusals, counts["lost_posts"]
        shown = []
        for name, count in sorted(counts["refused_posts"].items(), key=lambda item: -item[1]):
            reason, refusal = REASONS.get(name, Reason("", "", "", "")), last.get(name)
            shown.append(
                {
                    "reason": name,
                    "count": count,
                    "lost": lost.get(name, 0),
                    "answer": reason.answer,
                    "meaning": reason.meaning.replace("`", ""),
                    "remedy": reason.remedy.replace("`", ""),
                    "last_time": refusal.time if refusal else None,
                    "last_error": refusal.error if refusal else None,
                    "last_peer": refusal.peer if refusal else None,
                }
            )
        return shown

    def _tls_failures(self) -> list[dict[str, Any]]:
        return [
            {
                "error": error,
                "hint": each.hint,
                "count": each.count,
                "last_time": each.last.time,
                "last_peer": each.last.peer,
            }
            for error, each in self._parts.metrics.details.tls_failures.items()
        ]

    def _journal(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        trend = self._sampler.trends.journal(counts)
        limit = counts["journal_limit_bytes"]
        text = f"{trend} (of {size(limit)})" if trend else size(counts["journal_bytes"])
        return {
            "text": text,
            "used": round(counts["journal_bytes"] / limit, 4) if limit else None,
            "bytes": counts["journal_bytes"],
            "limit_bytes": limit or None,
            "undelivered_bytes": counts["journal_undelivered_bytes"],
            "free_bytes": counts["journal_free_bytes"] if limit else None,
            "full_in_seconds": rounded(trend.full_in) if trend else None,
            "empty_in_seconds": rounded(trend.empty_in) if trend else None,
            "when_full": self._parts.configuration().get("journal", {}).get("when_full"),
        }

    async def _dead_letters(self, kept: list[dict[str, Any]] | None, private: bool) -> list[dict[str, Any]] | None:
        """Raises nothing: without the journal, there are no samples."""
        if kept is None:
            return None
        samples: Mapping[tuple[str, str], dict[str, Any]] = {}
        if private and kept:
            with suppress(JournalError, TimeoutError):
                async with self._clock.timeout(BACKLOG_TIMEOUT):
                    samples = await self._letters.samples([(each["sink"], each["reason"]) for each in kept])
        return [each | {"sample": samples.get((each["sink"], each["reason"]))} for each in kept]

    # Sinks

    async def _sinks(
        self, backlogs: Mapping[str, Backlog], answers: bool, now: int, private: bool
    ) -> dict[str, dict[str, Any]]:
        """answers: whether the journal does."""
        positions = await self._positions() if answers else {}
        return {
            name: self._sink(name, backlogs.get(name), positions.get(name), now, private)
            for name in list(self._parts.sinks)
        }

    async def _positions(self) -> Mapping[str, Mapping[int, int]]:
        found: dict[str, Mapping[int, int]] = {}
        with suppress(TimeoutError):
            async with self._clock.timeout(BACKLOG_TIMEOUT):
                for name in list(self._parts.sinks):
                    with suppress(JournalError):  # the others' are known
                        found[name] = await self._parts.control.positions(name)
        return found

    def _sink(
        self, name: str, backlog: Backlog | None, positions: Mapping[int, int] | None, now: int, private: bool
    ) -> dict[str, Any]:
        sink, control, trends = self._parts.sinks[name], self._parts.control, self._sampler.trends
        slope = trends.trend(lambda status: _backlog(status, name))
        blocked = heapq.nlargest(MAX_BLOCKED, sink.blocked.items(), key=lambda item: item[1].waiting)
        shown = {
            "state": sink.state,
            "backlog_posts": backlog.posts if backlog else None,
            "backlog_age_seconds": round(backlog.age, 3) if backlog else None,
            "delivered": sink.delivered,
            "retried": sink.retried,
            "dead_letters": sink.dead_letters,
            "last_error": cut(sink.last_error, MAX_MESSAGE) if private and sink.last_error else None,
            "last_error_time": sink.last_error_time,
            "blocked": [
                {
                    "destination": cut(destination),
                    "reason": cut(each.reason, MAX_MESSAGE) if private else None,
                    "since": each.since,
                    "waiting": each.waiting,
                }
                for destination, each in blocked
            ],
            "blocked_destinations": len(sink.blocked),
            **self._parts.metrics.sink_summary(name),
            "type": control.type_of(name),
            "positions": positions,
            "paused_since": control.paused.get(name),
            "records_per_second": rounded(trends.rate(lambda status: delivered_records(status, name))),
            "behind_since": self._sampler.behind_since.get(name) if backlog is None or backlog.posts else None,
            "caught_up_in_seconds": caught_up_in(backlog.posts if backlog else None, slope),
            "latency": self._sampler.latency.shown(name),
        }
        return shown | {"text": words(shown, slope, now)}


def _backlog(status: Mapping[str, Any], sink: str) -> float:
    return float(status["sinks"].get(sink, {}).get("backlog_posts") or 0)


def _rates(trends: Trends) -> dict[str, float | None]:
    return {
        "posts": rounded(trends.rate(received_posts)),
        "occurrences": rounded(trends.rate(received_occurrences)),
        "refused": rounded(trends.rate(refused_posts)),
    }


def _reload(last: Reload | None) -> dict[str, Any] | None:
    if last is None:
        return None
    errors = [cut(each, MAX_MESSAGE) for each in last.errors[:MAX_ERRORS]]
    return {"time": last.time, "outcome": last.outcome, "errors": errors}
