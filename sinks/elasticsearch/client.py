"""Elasticsearch's client as the sink uses it: how it is made, how it reads replies, and what its errors mean."""

from typing import Any

import aiohttp
import msgspec
from elastic_transport import (
    ConnectionTimeout,
    NdjsonSerializer,
    SerializerCollection,
    TransportError,
)
from elastic_transport.client_utils import url_to_node_config
from elasticsearch import AsyncElasticsearch

from sinks.base import Misconfigured, OutcomeUnknown, Unavailable
from sinks.elasticsearch.hosts import HostPool
from sinks.elasticsearch.settings import AuthSettings, ElasticsearchSettings
from sinks.shared.http import request_error
from sinks.shared.tls import sink_context


class _AnyReply(SerializerCollection):
    """Decodes every reply: a proxy's may be of any type. What is not JSON is text, so that its status can be judged."""

    def loads(self, data: bytes, mimetype: str | None = None) -> Any:
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError:
            return data.decode(errors="replace")


class _Prepared(NdjsonSerializer):
    """Passes on the body of a bulk request that is bytes already, without copying it."""

    def dumps(self, data: Any) -> bytes:
        return data if isinstance(data, bytes) else super().dumps(data)


def connect(settings: ElasticsearchSettings) -> AsyncElasticsearch:
    """A client for these hosts and credentials. Sends nothing. Raises Misconfigured."""
    context = sink_context(settings.ca)
    nodes = [url_to_node_config(host, use_default_ports_for_scheme=True) for host in settings.hosts]
    auth = settings.auth or AuthSettings.model_construct()
    basic = (auth.basic.username, auth.basic.password.get_secret_value()) if auth.basic else None
    client = AsyncElasticsearch(
        [node.replace(ssl_context=context) if node.scheme == "https" else node for node in nodes],
        api_key=auth.api_key.get_secret_value() if auth.api_key else None,
        basic_auth=basic,
        bearer_auth=auth.bearer.get_secret_value() if auth.bearer else None,
        headers={"User-Agent": "btfeed"},
        serializers={NdjsonSerializer.mimetype: _Prepared()},
        request_timeout=settings.timeout,
        connections_per_node=64,  # the largest delivery.in_flight
        max_retries=0,
        retry_on_status=(),
        node_pool_class=HostPool,
    )
    client.transport.serializers = _AnyReply(client.transport.serializers.serializers)
    return client


def transport_error(error: TransportError) -> Unavailable | Misconfigured:
    """The sink error for a request without a reply. elastic_transport keeps aiohttp's error as the exception's context."""
    if isinstance(error, ConnectionTimeout):
        return OutcomeUnknown("no reply in time")
    cause = error.__context__
    return request_error(cause) if isinstance(cause, aiohttp.ClientError) else OutcomeUnknown(str(error))
