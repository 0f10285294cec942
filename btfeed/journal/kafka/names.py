"""The names of everything that the journal has in a Kafka cluster. All of them begin with `journal.prefix`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Names:
    """prefix: `journal.prefix`. What begins with another prefix belongs to another journal, or to somebody else."""

    prefix: str

    @property
    def posts(self) -> str:
        """The topic of the received posts, see messages.py."""
        return f"{self.prefix}.posts"

    @property
    def dead_letters(self) -> str:
        """The topic of records that could not be delivered. It has one partition and is compacted."""
        return f"{self.prefix}.dead-letters"

    @property
    def refused(self) -> str:
        """The topic of rejected posts. It has one partition."""
        return f"{self.prefix}.refused"

    @property
    def retries(self) -> str:
        """The topic of dead letters that an operator wants delivered after all. It has one partition."""
        return f"{self.prefix}.retries"

    @property
    def topics(self) -> tuple[str, ...]:
        return (self.posts, self.dead_letters, self.refused, self.retries)

    def group(self, sink: str) -> str:
        """The consumer group of a sink. It saves how far the sink has come."""
        return f"{self.prefix}.{sink}"

    def transactional_id(self, sink: str, partition: int | str) -> str:
        """By which brokers know the producer of a sink that writes exactly once, one for each partition that it reads, and
        one for checks."""
        return f"{self.prefix}.{sink}.{partition}"
