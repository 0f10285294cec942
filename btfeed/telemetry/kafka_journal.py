"""The metrics of the journal in Kafka. A server whose journal is another one has none of them."""

from btfeed.telemetry.factory import ACK, Factory

_REBALANCE = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SINK = ("sink",)


class KafkaJournalMetrics:
    """Made by btfeed.telemetry.metrics.Metrics, in its registry."""

    def __init__(self, create: Factory) -> None:
        self.up = create.gauge(
            "journal_up",
            "1 while Kafka takes posts, 0 while they go to the spill or are refused; NaN in a process that receives none",
        )
        self.up.set(float("nan"))
        self.retention = create.gauge(
            "journal_retention_seconds", "journal.retention: posts that a sink has not got by then are lost to it"
        )
        self.producers = create.counter(
            "journal_producers", "Producers that were made because the one before failed or did not answer in time"
        )
        self.append_seconds = create.histogram(
            "journal_append_seconds", "Seconds from the end of a post's body until Kafka or the spill has it", ACK
        )
        self.spilled_posts = create.counter(
            "spilled_posts", "Posts that Kafka did not take in time, and that were kept on this machine instead"
        )
        self.spill_posts = create.gauge(
            "spill_posts",
            "Posts in the spill that are still to be forwarded to Kafka, with rejected ones and those of former workers",
        )
        self.spill_bytes = create.gauge(
            "spill_bytes",
            "Bytes of posts in the spill, with forwarded ones and those of former workers, without rejected ones",
        )
        self.forwarded_posts = create.counter("forwarded_posts", "Posts forwarded from the spill to Kafka")
        self.repeated_posts = create.counter(
            "repeated_posts", "Posts passed over because they came twice within the last 10,000 of a partition", _SINK
        )
        self.partitions = create.gauge("partitions", "Partitions whose posts this process delivers to the sink", _SINK)
        self.rebalances = create.counter("rebalances", "Times that partitions were assigned to this process", _SINK)
        self.rebalance_seconds = create.histogram(
            "rebalance_seconds",
            "Seconds from when partitions were taken from this process until it had its new ones",
            _REBALANCE,
            _SINK,
        )
        self.commit_errors = create.counter(
            "commit_errors", "Commits that Kafka refused or did not answer, counted each time", ("sink", "kind")
        )
        self.transactions = create.counter(
            "transactions", "Transactions of sinks with exactly_once, by outcome: committed or aborted", ("sink", "outcome")
        )
