"""The table [sinks.NAME] of a Kafka sink."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from sinks.kafka.access import SecuritySettings
from sinks.kafka.messages import Compression, Key
from sinks.kafka.registry import RegistrySettings
from sinks.kafka.topics import check_topic
from sinks.settings import Seconds, Settings, Size
from sinks.template import template

PLACEHOLDERS = ("category", "name", "application", "system_profile", "server")
"""What a topic's name may depend on."""
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s,:\[\]/]+):([0-9]{1,5})")


def _servers(value: object) -> object:
    """Servers as one string, separated by commas. Also takes a list."""
    listed = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]
    servers = [server.strip() if isinstance(server, str) else "" for server in listed]
    matches = [_SERVER.fullmatch(server) for server in servers]
    if not servers or not all(match and 0 < int(match[2]) < 2**16 for match in matches):
        raise ValueError('write servers like "one:9092,two:9092"')
    return ",".join(servers)


def _registry(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


Servers = Annotated[str, BeforeValidator(_servers, json_schema_input_type=str | list[str])]
"""`host:port` of some brokers, separated by commas."""
RegistryTable = Annotated[RegistrySettings, BeforeValidator(_registry, json_schema_input_type=str | RegistrySettings)]


class KafkaSettings(Settings):
    """Records in topics of Kafka.

    bootstrap_servers   `host:port` of some of the brokers, separated by commas
    cluster             `journal`: the cluster that the journal is in, instead of bootstrap_servers and security
    exactly_once        write each batch and the sink's place in the journal in one transaction, so that consumers with the
                        isolation level read_committed get each record of a post once. Needs cluster = "journal"
    topic               template of the topic's name, with {category}, {name}, {application}, {system_profile}, {server}
    key                 the message's key. `visit`: the visit's id, or event.id if there is no visit; `name`: event.name;
                        `id`: event.id
    format              the message's value: the JSON record, or Avro in the wire format of schema registries
    schema_registry     for Avro: the registry's URL, or a table
    headers             `cloudevents`: event.id, event.type and others as headers, as in CloudEvents' binary mode
    compression         the compression of batches
    batch_size          bytes of a batch before compression; brokers accept 1 MiB by default
    timestamp           the message's timestamp: when it was sent, or the time of the event. Brokers delete messages by it
    create_topics       create missing topics
    partitions          partitions of topics that are created; without it, the broker's default
    replication_factor  replicas of topics that are created; without it, the broker's default
    security            TLS and SASL
    request_timeout     for a request, until the end of its reply; the producer then sends it again without duplicates
    timeout             after this long without progress, the producer is replaced by a new one
    """

    bootstrap_servers: Servers | None = None
    cluster: Literal["journal"] | None = None
    exactly_once: bool = False
    topic: Annotated[str, template(*PLACEHOLDERS), AfterValidator(check_topic)] = "appmon.{category}"
    key: Key = "visit"
    format: Literal["json", "avro"] = "json"
    schema_registry: RegistryTable | None = None
    headers: Literal["cloudevents", "none"] = "cloudevents"
    compression: Compression = "zstd"
    batch_size: Annotated[Size, Field(ge=1)] = 2**20
    timestamp: Literal["sent", "event"] = "sent"
    create_topics: bool = False
    partitions: Annotated[int, Field(ge=1)] | None = None
    replication_factor: Annotated[int, Field(ge=1, le=32767)] | None = None
    security: SecuritySettings = SecuritySettings()
    request_timeout: Annotated[Seconds, Field(ge=0.1)] = 10.0
    timeout: Annotated[Seconds, Field(ge=0.1)] = 20.0

    _journal: tuple[str, SecuritySettings] | None = PrivateAttr(None)

    @property
    def connection(self) -> tuple[str, SecuritySettings]:
        """The servers, and how to connect to them. No servers if they are the journal's, and that was not read."""
        return self._journal or (self.bootstrap_servers or "", self.security)

    def with_journal(self, bootstrap_servers: str, security: SecuritySettings) -> "KafkaSettings":
        """See JournalCluster in sinks/base.py."""
        found = self.model_copy()
        found._journal = bootstrap_servers, security
        return found

    @model_validator(mode="after")
    def _one_cluster(self) -> "KafkaSettings":
        if self.cluster and (self.bootstrap_servers or "security" in self.model_fields_set):
            raise ValueError('cluster = "journal" has bootstrap_servers and security of [journal]: remove these here')
        if not self.cluster and not self.bootstrap_servers:
            raise ValueError('set bootstrap_servers, or cluster = "journal" if the journal is in Kafka')
        return self

    @model_validator(mode="after")
    def _transactions(self) -> "KafkaSettings":
        if self.exactly_once and not self.cluster:
            raise ValueError('exactly_once needs cluster = "journal": a transaction spans one cluster')
        return self

    @model_validator(mode="after")
    def _registry_of_format(self) -> "KafkaSettings":
        if (self.format == "avro") != (self.schema_registry is not None):
            raise ValueError('set schema_registry if format is "avro", and only then')
        return self

    @model_validator(mode="after")
    def _new_topics(self) -> "KafkaSettings":
        if not self.create_topics and (self.partitions or self.replication_factor):
            raise ValueError("partitions and replication_factor are for new topics; set create_topics = true")
        return self

    @model_validator(mode="after")
    def _timeouts(self) -> "KafkaSettings":
        if self.timeout < self.request_timeout:
            raise ValueError("timeout must not be less than request_timeout")
        return self
