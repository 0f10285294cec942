"""Every metric of btfeed. docs/monitoring.md lists them; that table is generated from this module.

Counters, histograms and most gauges are kept up to date as things happen. Those of `show_sinks`, and those that say so, are
set when somebody asks (btfeed/admin/figures.py).
"""

import platform
from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, get_args

from prometheus_client import CollectorRegistry, disable_created_metrics

from btfeed import native
from btfeed.telemetry.details import Details
from btfeed.telemetry.factory import ACK, Factory
from btfeed.telemetry.kafka_journal import KafkaJournalMetrics
from btfeed.telemetry.process import Process
from btfeed.telemetry.samples import by_label, samples, total
from btfeed.telemetry.sink_status import WORKING, ShownStatus, State

MAX_TRANSACTIONS = 200
"""Business transactions with a label of their own in the violations metric. Further ones count as "other"."""
_BATCH = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_DELIVERY = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0)
_SINK = ("sink",)

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the series


@dataclass(frozen=True, slots=True)
class Reload:
    """A reload of the configuration. time: milliseconds since the epoch. errors: why it failed, empty if it succeeded."""

    time: int
    errors: Sequence[str] = ()

    @property
    def outcome(self) -> str:
        return "failed" if self.errors else "ok"


@dataclass(frozen=True, slots=True)
class FailedRestart:
    """No other server could take over from this one. time: milliseconds since the epoch. reason: how that one ended."""

    time: int
    reason: str


class Metrics:
    """The metrics of one server, in their own registry.

    violations      (business transaction, field, rule) -> how many
    last_post       when the last post was accepted, in milliseconds since the epoch; 0 before the first
    last_reload     of the configuration; None if there was none
    failed_restart  the last one; None if there was none
    certificates_begin  when certificates begin to be valid, in milliseconds since the epoch, by key in the configuration
    details         what the status shows besides
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.violations: Counts[tuple[str, str, str]] = Counts()
        self.last_post = 0
        self.details = Details()
        self._transactions: set[str] = set()
        self._create = create = Factory(self.registry)
        self._create_process(create)
        self._create_receiver(create)
        self._create_mapping(create)
        self._create_journal(create)
        self._create_dead_letters(create)
        self._create_sinks(create)
        self._create_admin(create)
        self._create_reloads(create)
        self._create_opentelemetry(create)

    def _create_process(self, create: Factory) -> None:
        labels = {"version": version("btfeed"), "mapping": native.PATH, "python": platform.python_version()}
        build_info = create.gauge(
            "build_info", "Always 1; the labels say what runs, and whether mapping is native or plain", tuple(labels)
        )
        build_info.labels(**labels).set(1)
        Process(registry=self.registry)
        self.ready = create.gauge("ready", "1 while posts are accepted, 0 while /readyz says why not")
        self.certificate_expiry = create.gauge(
            "certificate_expiry_timestamp_seconds",
            "When the first certificate in a file ends, as a Unix time, by the file's key in the configuration; as of the"
            " last start or reload",
            ("certificate",),
        )

    def _create_receiver(self, create: Factory) -> None:
        self.posts = create.unlocked_counter("posts", "Posts accepted: made durable and answered with 200")
        self.post_bytes = create.unlocked_counter("post_bytes", "Bytes of accepted posts, after decompression")
        self.received_occurrences = create.unlocked_counter("received_occurrences", "Occurrences in accepted posts")
        last_post = create.gauge(
            "last_post_timestamp_seconds",
            "When the last post was accepted, as a Unix time; 0 before the first since the start",
        )
        last_post.set_function(lambda: self.last_post / 1000)
        self.duplicate_posts = create.counter(
            "duplicate_posts", "Accepted posts with the same body as one of the last 10,000 since the start"
        )
        self.refused_posts = create.counter("refused_posts", "Requests not answered with 200, by reason", ("reason",))
        self.lost_posts = create.counter(
            "lost_posts", "Posts that were refused and are not kept, or whose connection failed, by reason", ("reason",)
        )
        self.empty_requests = create.counter(
            "empty_requests", "Requests without a post, such as AppMon's connection tests; answered with 200"
        )
        self.ack_seconds = create.unlocked_histogram(
            "ack_seconds", "Seconds from the end of a post's header until the post is durable", ACK
        )
        self.connections = create.gauge("connections", "Open connections to the receiver")
        self.evicted_connections = create.counter(
            "evicted_connections", "Idle connections that were closed to make room for new ones"
        )
        self.bytes_in_flight = create.gauge("bytes_in_flight", "Bytes of memory reserved for posts being received")

    def _create_mapping(self, create: Factory) -> None:
        self.occurrences = create.counter("occurrences", "Occurrences mapped, by event.category", ("category",))
        self._violations = create.counter(
            "violations",
            "Occurrences that break a rule of the field table, by business transaction, field and rule",
            ("transaction", "field", "rule"),
        )
        self.left_out = create.counter(
            "values_left_out", "Values left out because JSON or 64 bits can't hold them, by record field", ("field",)
        )
        self.mismatches = create.counter(
            "length_mismatches",
            "Occurrences with fewer or more values or dimensions than their business transaction has names",
            ("field", "kind"),
        )
        self.unknown_fields = create.counter("unknown_fields", "Fields missing from the schema, by message", ("message",))
        self.invalid_utf8 = create.counter(
            "invalid_utf8", "Strings with invalid UTF-8; the invalid bytes were replaced by U+FFFD"
        )
        self.lost_transactions = create.counter(
            "lost_transactions", "Transactions that posts report as lost, in the field lostTransactions"
        )

    def _create_journal(self, create: Factory) -> None:
        self.journal_bytes = create.gauge(
            "journal_bytes", "Bytes in the journal that count towards its max_size: all but dead letters"
        )
        self.journal_undelivered = create.gauge(
            "journal_undelivered_bytes",
            "Bytes of posts that a sink has yet to finish, estimated from their number: the journal is full when they reach"
            " its max_size, since delivered posts make room",
        )
        self.journal_limit = create.gauge("journal_limit_bytes", "journal.max_size: the journal refuses posts beyond it")
        self.journal_file = create.gauge(
            "journal_file_bytes", "Bytes that the journal's files take on disk, with room for reuse"
        )
        self.journal_free = create.gauge("journal_free_bytes", "Bytes that are free on the disk of the journal")
        self.journal_posts = create.gauge("journal_posts", "Posts in the journal, including delivered ones")
        self.journal_commit_seconds = create.histogram("journal_commit_seconds", "Seconds taken by one group commit", ACK)
        self.journal_errors = create.counter("journal_errors", "Errors of the journal's disk or file")
        self.journal_damaged_posts = create.counter(
            "journal_damaged_posts", "Posts found damaged in the journal and moved to the dead letters"
        )
        self.journal_lost_posts = create.counter(
            "journal_lost_posts", "Undelivered posts that could not be read from a damaged journal"
        )
        self.journal_lost_delivered = create.counter("journal_lost_delivered_posts", "Delivered posts lost in the same way")
        self.journal_dropped_posts = create.counter(
            "journal_dropped_posts", "Posts dropped before the sink had confirmed them (when_full = drop-oldest)", _SINK
        )

    @cached_property
    def kafka_journal(self) -> KafkaJournalMetrics:
        """Those of the journal in Kafka. Nobody is shown them before they are used for the first time."""
        return KafkaJournalMetrics(self._create)

    def _create_dead_letters(self, create: Factory) -> None:
        self.dead_letters = create.counter("dead_letters", "Dead letters added, by sink and reason", ("sink", "reason"))
        self.dead_letters_evicted = create.counter(
            "dead_letters_evicted",
            "Dead letters that were deleted to stay within their bound, or not kept at all, by sink and reason",
            ("sink", "reason"),
        )
        self.dead_letters_lost = create.counter(
            "dead_letters_lost",
            "Dead letters that could not be read from a damaged journal, if it still told how many there were",
        )
        self.dead_letters_kept = create.gauge(
            "dead_letters_kept", "Dead letters that are kept now, by sink and reason", ("sink", "reason")
        )
        self.dead_letters_oldest = create.gauge(
            "dead_letters_oldest_age_seconds",
            "Seconds since the oldest dead letter that is kept failed, or began to wait, by sink and reason",
            ("sink", "reason"),
        )
        self.dead_letter_bytes = create.gauge(
            "dead_letter_bytes", "Bytes that dead letters take in the journal, rather more than less"
        )
        self.dead_letter_limit = create.gauge(
            "dead_letter_limit_bytes", "journal.dead_letters: the oldest are deleted beyond it; 0 with a journal in Kafka"
        )

    def _create_sinks(self, create: Factory) -> None:
        self.backlog_posts = create.gauge("sink_backlog_posts", "Posts that the sink has not finished", _SINK)
        self.backlog_age = create.gauge(
            "sink_backlog_age_seconds", "Age in seconds of the oldest post that the sink has not finished", _SINK
        )
        self.delivered = create.counter("sink_delivered", "Records delivered", _SINK)
        self.delivered_bytes = create.counter("sink_delivered_bytes", "Bytes of delivered records", _SINK)
        self.filtered = create.counter("sink_filtered", "Records that the sink's filter excludes", _SINK)
        self.retried = create.counter("sink_retried", "Records written again after a failure, counted each time", _SINK)
        self.refused = create.counter("sink_refused", "Records that the sink refused for good", _SINK)
        self.unknown = create.counter(
            "sink_unknown", "Records in writes whose outcome is unknown, counted each time; they may be duplicated", _SINK
        )
        self.flagged = create.counter(
            "sink_flagged", "Delivered records with a property worth counting, such as far_future", ("sink", "what")
        )
        self.sink_errors = create.counter("sink_errors", "Failed writes and failed attempts to open", ("sink", "kind"))
        self.blocked = create.gauge(
            "sink_blocked_destinations",
            "Destinations, such as topics, that take nothing; their records wait aside",
            _SINK,
        )
        self.sink_actions = create.counter(
            "sink_actions", "What operators did to the sink: pause, resume, rewind", ("sink", "action")
        )
        self.skipped_posts = create.counter(
            "sink_skipped_posts", "Posts that the sink never gets, because an operator let it continue behind them", _SINK
        )
        self.batch_seconds = create.histogram("sink_batch_seconds", "Seconds taken by one write", _BATCH, _SINK)
        self.delivery_seconds = create.histogram(
            "sink_delivery_seconds",
            "Seconds from the receipt of a batch's oldest post until it is done, for batches with delivered records",
            _DELIVERY,
            _SINK,
        )
        self.sink_up = create.gauge(
            "sink_up", "1 while the sink's state is running, or idle because other processes deliver; else 0", _SINK
        )
        self.sink_state = create.gauge(
            "sink_state", "1 for the state that the sink is in, 0 for the others", ("sink", "state")
        )

    def show_sinks(self, statuses: Mapping[str, ShownStatus]) -> None:
        """Set the gauges of these sinks, and remove those of others."""
        for gauge in (self.sink_up, self.sink_state, self.blocked):
            gauge.clear()
        for sink, status in statuses.items():
            self.sink_up.labels(sink).set(status.state in WORKING)
            for state in get_args(State):
                self.sink_state.labels(sink, state).set(status.state == state)
            self.blocked.labels(sink).set(len(status.blocked))

    def _create_admin(self, create: Factory) -> None:
        self.taps = create.gauge("taps", "Readers of records that are being delivered (btfeed tap)")
        self.viewers = create.gauge("viewers", "Pages that follow the status live")
        self.tap_lost = create.counter(
            "tap_lost_records", "Records that a reader was too slow to be shown; their delivery is not concerned"
        )
        self.admin_refused = create.counter(
            "admin_refused",
            "Requests that the admin listener refused, by reason: token, login, not_local, origin, content_type, taps, or"
            " events",
            ("reason",),
        )

    def _create_reloads(self, create: Factory) -> None:
        self.last_reload: Reload | None = None
        self.certificates_begin: dict[str, int] = {}
        self._reloads = create.counter(
            "config_reloads", "Reloads of the configuration, by outcome: ok or failed", ("outcome",)
        )
        for outcome in ("ok", "failed"):
            self._reloads.labels(outcome)
        self._reload_time = create.gauge(
            "config_last_reload_timestamp_seconds",
            "When the configuration was last loaded again, whatever the outcome, as a Unix time; 0 if it was not",
        )
        self._reload_successful = create.gauge(
            "config_last_reload_successful",
            "0 if the last reload failed, so that the configuration in use is not that in the file; else 1",
        )
        self._reload_successful.set(1)
        self.failed_restart: FailedRestart | None = None
        self._failed_restarts = create.counter(
            "failed_restarts", "Restarts by SIGUSR2 to the supervisor that failed, so that this server goes on"
        )
        self._restart_successful = create.gauge(
            "last_restart_successful",
            "0 if the last restart by SIGUSR2 failed, so that what runs is not what is installed and configured; else 1",
        )
        self._restart_successful.set(1)

    def count_reload(self, reload: Reload) -> None:
        self.last_reload = reload
        self._reloads.labels(reload.outcome).inc()
        self._reload_time.set(reload.time / 1000)
        self._reload_successful.set(not reload.errors)

    def count_failed_restart(self, time: int, reason: str) -> None:
        """time: milliseconds since the epoch. A restart that succeeds begins with new metrics."""
        self.failed_restart = FailedRestart(time, reason)
        self._failed_restarts.inc()
        self._restart_successful.set(0)

    def _create_opentelemetry(self, create: Factory) -> None:
        self.lost_spans = create.counter(
            "opentelemetry_lost_spans",
            "Spans that the OpenTelemetry collector did not take, or that had no room to wait for it",
        )
        self.failed_metric_exports = create.counter(
            "opentelemetry_failed_metric_exports", "Exports of metrics that the OpenTelemetry collector did not take"
        )

    def count_violations(self, transaction: str, field: str, rule: str, number: int) -> None:
        """Count violations of one business transaction. Past MAX_TRANSACTIONS, they count under "other"."""
        if transaction not in self._transactions:
            if len(self._transactions) < MAX_TRANSACTIONS:
                self._transactions.add(transaction)
            else:
                transaction = "other"
        self.violations[transaction, field, rule] += number
        self._violations.labels(transaction, field, rule).inc(number)

    def summary(self) -> dict[str, int | dict[str, int]]:
        """The counts in /status: one number each, or numbers by label."""
        return self.sample() | {
            "post_bytes": total(self.post_bytes),
            "duplicate_posts": total(self.duplicate_posts),
            "empty_requests": total(self.empty_requests),
            "lost_posts": by_label(self.lost_posts),
            "connections": total(self.connections),
            "viewers": total(self.viewers),
            "evicted_connections": total(self.evicted_connections),
            "occurrences": by_label(self.occurrences),
            "values_left_out": by_label(self.left_out),
            "unknown_fields": by_label(self.unknown_fields),
            "invalid_utf8": total(self.invalid_utf8),
            "lost_transactions": total(self.lost_transactions),
            "journal_file_bytes": total(self.journal_file),
            "journal_posts": total(self.journal_posts),
            "journal_errors": total(self.journal_errors),
            "journal_damaged_posts": total(self.journal_damaged_posts),
            "journal_lost_posts": total(self.journal_lost_posts),
            "journal_dropped_posts": by_label(self.journal_dropped_posts),
            "dead_letter_bytes": total(self.dead_letter_bytes),
            "dead_letter_limit_bytes": total(self.dead_letter_limit),
            "skipped_posts": by_label(self.skipped_posts),
            "evicted_dead_letters": by_label(self.dead_letters_evicted),
            "lost_dead_letters": total(self.dead_letters_lost),
            **self._of_kafka(),
        }

    def _of_kafka(self) -> dict[str, int | dict[str, int]]:
        """Those of a process whose journal is in Kafka."""
        if "kafka_journal" not in self.__dict__:
            return {}
        spill = self.kafka_journal
        return {"spill_posts": total(spill.spill_posts), "spill_bytes": total(spill.spill_bytes)}

    def sample(self) -> dict[str, int | dict[str, int]]:
        """Those of `summary` that are read again and again."""
        return {
            "posts": total(self.posts),
            "received_occurrences": total(self.received_occurrences),
            "refused_posts": by_label(self.refused_posts),
            "journal_bytes": total(self.journal_bytes),
            "journal_undelivered_bytes": total(self.journal_undelivered),
            "journal_limit_bytes": total(self.journal_limit),
            "journal_free_bytes": total(self.journal_free),
        }

    def delivery_buckets(self) -> dict[str, list[tuple[float, float]]]:
        """Of `delivery_seconds`, by sink: the bounds in seconds, and how many batches took as long at most."""
        found: dict[str, list[tuple[float, float]]] = {}
        for sample in samples(self.delivery_seconds, {}):
            if bound := sample.labels.get("le"):
                found.setdefault(sample.labels["sink"], []).append((float(bound), sample.value))
        return found

    def certificates(self) -> dict[str, int]:
        """When each certificate ends, in milliseconds since the epoch, by its key in the configuration."""
        return {path: end * 1000 for path, end in by_label(self.certificate_expiry).items()}

    def sink_summary(self, sink: str) -> dict[str, Any]:
        """The counts of one sink in /status: one number each, or numbers by label."""
        of_sink = {"sink": sink}
        return {
            "filtered": total(self.filtered, of_sink),
            "refused": total(self.refused, of_sink),
            "unknown": total(self.unknown, of_sink),
            "flagged": by_label(self.flagged, "what", of_sink),
            "errors": by_label(self.sink_errors, "kind", of_sink),
        }
