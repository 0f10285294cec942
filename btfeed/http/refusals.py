"""Counts and logs what is refused, by reason. The caller says whether a post is lost."""

from collections.abc import Mapping

import structlog

from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.warnings import SummedWarnings

log = structlog.get_logger()


class Refusals:
    """The refusals of one server, by the reasons in reasons.py. Warnings are summed up by reason.

    In all methods, `fields` go into the log: `peer` and `error`, for example.
    """

    def __init__(self, metrics: Metrics, warnings: SummedWarnings) -> None:
        self._metrics = metrics
        self._warnings = warnings

    def lost(self, reason: str, **fields: object) -> None:
        """A post was not taken, or what probably was one. AppMon does not send it again."""
        self._count(reason, fields)
        self._metrics.lost_posts.labels(reason).inc()
        kind = fields.get("error") if reason == "bad_tls" else None  # OpenSSL's names: each has its own remedy
        self._warnings.warn("post lost", ("post lost", reason, kind), 1, reason=reason, **fields)

    def kept(self, reason: str, **fields: object) -> None:
        """A post was not taken, but is kept as a dead letter."""
        self._count(reason, fields)
        self._warnings.warn("post rejected", ("post rejected", reason), 1, reason=reason, **fields)

    def not_kept(self, reason: str, error: str) -> None:
        """A post that was not taken could not be kept either. It is counted as lost besides."""
        self._warnings.warn("rejected post not kept", ("not kept", reason), 1, reason=reason, error=error)

    def bug(self, event: str, error: Exception) -> None:
        """A post could not be taken because of a bug. It is counted as lost besides."""
        self._warnings.error(event, (event, type(error)), exc_info=error)

    def harmless(self, reason: str, **fields: object) -> None:
        """Something without a post."""
        self._count(reason, fields)
        log.debug("request rejected", reason=reason, **fields)

    def _count(self, reason: str, fields: Mapping[str, object]) -> None:
        self._metrics.refused_posts.labels(reason).inc()
        self._metrics.details.refused(reason, fields)
