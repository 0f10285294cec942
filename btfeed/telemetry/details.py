"""What the status shows besides metrics: the last refusal of each reason, TLS handshakes that failed, and where posts come
from. Each is bounded: what is beyond a bound is counted together.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from btfeed.telemetry.wording import cut

MAX_SOURCES = 50
"""AppMon servers that are told apart, by their names. The one that posted longest ago makes room for a new one."""
MAX_TLS_ERRORS = 20
"""Errors of TLS handshakes that are told apart. OpenSSL has about as many that occur."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """time: milliseconds since the epoch."""

    time: int
    error: str
    peer: str


@dataclass(slots=True)
class TlsFailure:
    """Handshakes that failed with one error. last: the newest."""

    hint: str
    last: Refusal
    count: int = 0


@dataclass(slots=True)
class Source:
    """An AppMon server. last_post: when its last post was received, in milliseconds since the epoch."""

    last_post: int = 0
    posts: int = 0
    occurrences: Counter[str] = field(default_factory=Counter)


class Details:
    """Of one server.

    refusals      the last of each reason
    tls_failures  by error
    sources       by serverName, the one whose posts were mapped longest ago first
    more_sources  how many were forgotten
    """

    def __init__(self) -> None:
        self.refusals: dict[str, Refusal] = {}
        self.tls_failures: dict[str, TlsFailure] = {}
        self.sources: dict[str, Source] = {}
        self.more_sources = 0

    def refused(self, reason: str, fields: Mapping[str, object]) -> None:
        """fields: those of the log, of which `error`, `peer` and `hint` are kept."""
        error = cut(str(fields.get("error", "")))
        last = self.refusals[reason] = Refusal(round(time.time() * 1000), error, str(fields.get("peer", "")))
        if reason == "bad_tls":
            known = error in self.tls_failures or len(self.tls_failures) < MAX_TLS_ERRORS
            failure = self.tls_failures.setdefault(
                error if known else "other", TlsFailure(str(fields.get("hint", "")), last)
            )
            failure.last = last
            failure.count += 1

    def mapped(self, server: str, received: int, occurrences: Mapping[str, int], posts: int = 1) -> None:
        """Posts of this server became records. received: when the last one was, in milliseconds since the epoch."""
        server = cut(server)
        source = self.sources.pop(server, None) or Source()
        self.sources[server] = source  # last
        source.last_post = max(source.last_post, received)
        source.posts += posts
        for category, number in occurrences.items():
            source.occurrences[category] += number
        if len(self.sources) > MAX_SOURCES:
            del self.sources[next(iter(self.sources))]
            self.more_sources += 1
