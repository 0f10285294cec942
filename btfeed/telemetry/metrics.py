"""Every metric that btfeed exposes, declared once; docs/operations.md lists them and a test compares."""

from collections import Counter as Counts

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from btfeed import native

MAX_TRANSACTIONS = 200
"""Business transactions that the violations metric tells apart; later ones count as "other"."""

_ACK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_BATCH = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one running btfeed, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        sink = ("sink",)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"btfeed_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"btfeed_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(f"btfeed_{name}", text, labels, buckets=buckets, registry=registry)

        # receiver
        self.posts = counter("posts", "Posts taken: durable and answered with 200")
        self.post_bytes = counter("post_bytes", "Bytes of the bodies of posts taken, after decompression")
        self.received_occurrences = counter("received_occurrences", "Occurrences in posts taken")
        self.duplicate_posts = counter("duplicate_posts", "Posts taken whose body equals one of the last posts'")
        self.refused_posts = counter("refused_posts", "Requests not answered with 200, by reason", ("reason",))
        self.empty_requests = counter("empty_requests", "Requests answered with 200 that carry nothing: connection tests")
        self.ack_seconds = histogram("ack_seconds", "From a request's header to its 200, in seconds", _ACK)
        self.connections = gauge("connections", "Open connections to the receiver")
        self.bytes_in_flight = gauge("bytes_in_flight", "Bytes reserved by posts being received")

        # mapping
        self.mapping = gauge("mapping", "1, for the path that maps posts: native or plain", ("path",))
        self.mapping.labels(native.PATH).set(1)
        self.occurrences = counter("occurrences", "Occurrences mapped, by event.category", ("category",))
        self._violations = counter(
            "violations", "Breaches of the field table, by business transaction", ("transaction", "field", "rule")
        )
        self.left_out = counter("values_left_out", "Values that JSON or 64 bits can't hold, by record field", ("field",))
        self.mismatches = counter(
            "length_mismatches", "Occurrences with fewer or more values or dimensions than names", ("field", "kind")
        )
        self.unknown_fields = counter("unknown_fields", "Fields that the schema does not know, by message", ("message",))
        self.invalid_utf8 = counter("invalid_utf8", "Strings that were not UTF-8; bad bytes became U+FFFD")
        self.lost_transactions = counter("lost_transactions", "Transactions that AppMon says it lost (lostTransactions)")

        # journal
        self.journal_bytes = gauge("journal_bytes", "Bytes that the journal's content takes up")
        self.journal_posts = gauge("journal_posts", "Posts in the journal, delivered ones included")
        self.journal_commit_seconds = histogram("journal_commit_seconds", "Time of one group commit, in seconds", _ACK)
        self.journal_errors = counter("journal_errors", "Errors of the journal's disk or file")
        self.journal_damaged_posts = counter("journal_damaged_posts", "Posts found changed in the journal and set aside")
        self.journal_lost_posts = counter("journal_lost_posts", "Posts that could not be read from a damaged journal")
        self.journal_dropped_posts = counter(
            "journal_dropped_posts", "Posts dropped before this sink had them (when_full = drop-oldest)", sink
        )

        # dead letters
        self.dead_letters = counter("dead_letters", "Dead letters written, by sink and reason", ("sink", "reason"))
        self.dead_letters_evicted = counter("dead_letters_evicted", "Refused posts dropped from the dead letters for room")

        # sinks
        self.backlog_posts = gauge("sink_backlog_posts", "Posts in the journal that the sink has not finished", sink)
        self.backlog_age = gauge("sink_backlog_age_seconds", "Age of the oldest of them, in seconds", sink)
        self.delivered = counter("sink_delivered", "Records delivered", sink)
        self.delivered_bytes = counter("sink_delivered_bytes", "Bytes of records delivered", sink)
        self.filtered = counter("sink_filtered", "Records that the sink's filter holds back", sink)
        self.retried = counter("sink_retried", "Records written again", sink)
        self.refused = counter("sink_refused", "Records that the sink refused", sink)
        self.unknown = counter(
            "sink_unknown", "Records whose write ended with nobody knowing whether they were taken, each time", sink
        )
        self.flagged = counter(
            "sink_flagged", "Delivered records that something is worth counting of, such as far_future", ("sink", "what")
        )
        self.sink_errors = counter("sink_errors", "Failed writes and openings, by kind", ("sink", "kind"))
        self.batch_seconds = histogram("sink_batch_seconds", "Time of one write, in seconds", _BATCH, sink)
        self.sink_up = gauge("sink_up", "1 while the sink takes records, 0 while it is unavailable or misconfigured", sink)

        self.violations: Counts[tuple[str, str, str]] = Counts()
        self._transactions: set[str] = set()

    def count_violations(self, transaction: str, field: str, rule: str, number: int) -> None:
        """Count under the name of the business transaction, or under "other" where there are too many."""
        if transaction not in self._transactions:
            if len(self._transactions) < MAX_TRANSACTIONS:
                self._transactions.add(transaction)
            else:
                transaction = "other"
        self.violations[transaction, field, rule] += number
        self._violations.labels(transaction, field, rule).inc(number)

    def summary(self) -> dict[str, int | dict[str, int]]:
        """The counters that /status shows: a number, or numbers by label."""
        return {
            "posts": _total(self.posts),
            "post_bytes": _total(self.post_bytes),
            "received_occurrences": _total(self.received_occurrences),
            "duplicate_posts": _total(self.duplicate_posts),
            "empty_requests": _total(self.empty_requests),
            "refused_posts": _by_label(self.refused_posts),
            "occurrences": _by_label(self.occurrences),
            "values_left_out": _by_label(self.left_out),
            "unknown_fields": _by_label(self.unknown_fields),
            "invalid_utf8": _total(self.invalid_utf8),
            "lost_transactions": _total(self.lost_transactions),
            "journal_bytes": _total(self.journal_bytes),
            "journal_posts": _total(self.journal_posts),
            "journal_errors": _total(self.journal_errors),
        }


def _by_label(metric: Counter) -> dict[str, int]:
    """Values by the first label."""
    samples = [sample for family in metric.collect() for sample in family.samples if not sample.name.endswith("_created")]
    return {next(iter(sample.labels.values())): int(sample.value) for sample in samples}


def _total(metric: Counter | Gauge) -> int:
    return int(next(sample.value for family in metric.collect() for sample in family.samples))
