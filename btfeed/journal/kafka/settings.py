"""What is configured of the journal in Kafka."""

import re
import socket
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sinks.kafka.access import SecuritySettings
from sinks.kafka.messages import Compression
from sinks.kafka.settings import Servers
from sinks.settings import Place, Seconds, Settings, Size

MAX_PREFIX = 200
"""Characters of `prefix`. Kafka takes 249 of a topic's name, and names of topics and groups begin with the prefix."""
MAX_INSTANCE = 249
"""Characters that Kafka takes of a member's name."""
MIN_SPILL = 2**20
"""Bytes that a spill needs to take posts at all."""
CHANGEABLE = frozenset({"timeout", "partition_by"})
"""Keys that can change while the journal is open."""


def _name(limit: int) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", value) or value in (".", "..") or len(value) > limit:
            raise ValueError(f"must have 1 to {limit} letters, digits, periods, hyphens and underscores")
        return value

    return AfterValidator(check)


class SpillSettings(Settings):
    """Where posts are kept on this machine while Kafka does not take them. They are forwarded as soon as it does.

    directory  where the file is; created if necessary, and used by one process only
    max_size   how much posts may take, at least 1MiB. "0B": there is no spill, and posts are answered with 503
    """

    directory: Annotated[Place, Field(validate_default=True)] = "btfeed-data/spill"
    max_size: Size = 10 * 2**30

    @property
    def enabled(self) -> bool:
        return self.max_size > 0

    @model_validator(mode="after")
    def _room(self) -> "SpillSettings":
        if 0 < self.max_size < MIN_SPILL:
            raise ValueError('max_size must be at least 1MiB, or "0B" for no spill')
        return self


def _spill(value: object) -> object:
    """`false` is written for no spill. The default is read like a table, so that its directory starts at the file's."""
    if value is False:
        return {"max_size": "0B"}
    return {} if isinstance(value, SpillSettings) and not value.model_fields_set else value


SpillTable = Annotated[
    SpillSettings,
    BeforeValidator(_spill, json_schema_input_type=Literal[False] | SpillSettings),
    Field(validate_default=True),
]


class KafkaJournalSettings(Settings):
    """The journal: received posts in topics of Kafka, for more than one machine.

    type                 the backend: "kafka"
    bootstrap_servers    `host:port` of some of the brokers, separated by commas
    prefix               what names of topics, groups and transactional ids begin with; the same on every machine
    instance             the name of this process among those that deliver. It must stay the same over restarts, and no
                         other process may have it; without it, the name of the host
    partitions           partitions of the topic of posts when btfeed makes it. That can be raised later, not lowered
    replication_factor   copies of each post, of topics that btfeed makes
    min_insync_replicas  copies that a post needs before it counts as received, of topics that btfeed makes
    create_topics        make the topics that are missing; else btfeed waits for them: meanwhile posts go to the spill,
                         nothing is delivered, and the log says so. With `strict`, a receiver does not start without them
    strict               topics that can lose acknowledged posts are an error instead of a warning
    retention            how long posts are kept, and so the longest time that a sink may be down, and the source of
                         `btfeed replay`; of topics that btfeed makes
    retention_size       how much posts of a partition may take; "0B": as much as they need. Of topics that btfeed makes
    compression          the compression of posts in Kafka: about half the bytes, for CPU time
    partition_by         "post": posts are spread evenly; "source": posts of one AppMon server keep their order
    timeout              how long Kafka may take to make a post durable. After that it goes to the spill, or is answered
                         with 503
    request_timeout      for a request to a broker, until the end of its reply
    session_timeout      how long a process may be silent before others take its partitions over
    refused_posts        how much rejected posts may take; beyond it the oldest are deleted. Of topics that btfeed makes
    spill                where posts wait while Kafka does not take them, see below; `false`: nowhere, they get 503
    security             TLS and SASL
    """

    type: Literal["kafka"]
    bootstrap_servers: Servers
    prefix: Annotated[str, _name(MAX_PREFIX)] = "btfeed"
    instance: Annotated[str, _name(MAX_INSTANCE)] | None = None
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 12
    replication_factor: Annotated[int, Field(ge=1, le=32767)] = 3
    min_insync_replicas: Annotated[int, Field(ge=1, le=32767)] = 2
    create_topics: bool = True
    strict: bool = False
    retention: Annotated[Seconds, Field(ge=60.0)] = 7 * 86_400.0
    retention_size: Size = 0
    compression: Compression = "none"
    partition_by: Literal["post", "source"] = "post"
    timeout: Annotated[Seconds, Field(ge=0.1, le=8.0)] = 2.0
    request_timeout: Annotated[Seconds, Field(ge=0.1)] = 4.0
    session_timeout: Annotated[Seconds, Field(ge=1.0)] = 30.0
    refused_posts: Annotated[Size, Field(ge=2**20)] = 64 * 2**20
    spill: SpillTable = SpillSettings()
    security: SecuritySettings = SecuritySettings()

    @property
    def instance_name(self) -> str:
        """`instance`, or the name of the host."""
        return self.instance or socket.gethostname()

    @model_validator(mode="after")
    def _replicas(self) -> "KafkaJournalSettings":
        if self.min_insync_replicas > self.replication_factor:
            raise ValueError("min_insync_replicas must not be more than replication_factor")
        return self
