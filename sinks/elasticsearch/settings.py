"""The table [sinks.NAME] of an Elasticsearch sink."""

import re
from typing import Annotated

from elastic_transport.client_utils import url_to_node_config
from pydantic import AfterValidator, Field, model_validator

from sinks.elasticsearch.index import PLACEHOLDERS, check_name
from sinks.settings import Place, RequiredSecret, Seconds, Secret, Settings, Token
from sinks.shared.http import ServiceUrl, basic_credentials
from sinks.shared.redaction import Redactor
from sinks.template import template

DEFAULT_INDEX = "bizevents-appmon-{category}-{date}"

NameTemplate = Annotated[str, template(*PLACEHOLDERS), AfterValidator(check_name)]


def _username(value: str) -> str:
    if not re.fullmatch(r"[^:\x00-\x1f]+", value):
        raise ValueError("must be a name without colons and control characters")
    return value


class BasicSettings(Settings):
    """A user.

    username  the user's name in Elasticsearch
    password  the user's password; take it from the environment
    """

    username: Annotated[str, AfterValidator(_username)]
    password: RequiredSecret


class AuthSettings(Settings):
    """Exactly one of these.

    api_key  an API key, encoded as Elasticsearch returns it; take it from the environment
    basic    a user's name and password
    bearer   a token; take it from the environment
    """

    api_key: Token | None = None
    basic: BasicSettings | None = None
    bearer: Token | None = None

    @model_validator(mode="after")
    def _one(self) -> "AuthSettings":
        if len(self.model_fields_set) != 1 or not (self.api_key or self.basic or self.bearer):
            raise ValueError("set exactly one of api_key, basic and bearer")
        return self

    def redactor(self) -> Redactor:
        """Removes these credentials from replies."""
        if self.basic is None:
            return Redactor(self.api_key, self.bearer)
        pair = basic_credentials(self.basic.username, self.basic.password.get_secret_value())
        return Redactor(self.basic.password, Secret(pair))


def _distinct(hosts: list[str]) -> list[str]:
    nodes = [url_to_node_config(host, use_default_ports_for_scheme=True) for host in hosts]
    for index, node in enumerate(nodes):
        if node in nodes[:index]:
            raise ValueError(f"names {hosts[index]} twice: list each server once")
    return hosts


class ElasticsearchSettings(Settings):
    """Records as documents of Elasticsearch.

    hosts            URLs of nodes or of load balancers; one that is down is skipped
    auth             credentials, if Elasticsearch requires them
    ca               PEM file with further certificates to trust
    index            the index, with {name}, {application}, {system_profile}, {server}, {category} and {date}
    data_stream      a data stream instead of an index, with the same placeholders
    manage_template  install an index template for the record fields, or replace an older one
    timeout          for a request, until the end of its reply
    """

    hosts: Annotated[list[ServiceUrl], Field(min_length=1), AfterValidator(_distinct)]
    auth: AuthSettings | None = None
    ca: Place | None = None
    index: NameTemplate = DEFAULT_INDEX
    data_stream: NameTemplate | None = None
    manage_template: bool = True
    timeout: Annotated[Seconds, Field(gt=0)] = 60.0

    @model_validator(mode="after")
    def _one_target(self) -> "ElasticsearchSettings":
        if self.data_stream is not None and "index" in self.model_fields_set:
            raise ValueError("set either index or data_stream, not both")
        return self
