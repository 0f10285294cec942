"""Elasticsearch 8 and 9: each record is a document with its event.id as `_id`, there once however often it is written.

A batch is one bulk request; `verdict` in bulk.py decides what became of it. The client keeps connections and passes over
hosts that are down. It neither retries, since the delivery loop does, nor discovers hosts, since that needs more
privileges.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog
from elastic_transport import ApiResponse, ConnectionTimeout, TransportError
from elasticsearch import ApiError, AsyncElasticsearch, UnsupportedProductError

from sinks.base import Misconfigured, OutcomeUnknown, SinkContext, SinkType, Unavailable, WriteResult
from sinks.batch import Batch
from sinks.elasticsearch.bulk import at_timestamp, bulk_request, describe_error, index_names, verdict
from sinks.elasticsearch.client import connect, transport_error
from sinks.elasticsearch.hosts import HostLog, HostPool
from sinks.elasticsearch.index import TEMPLATE_VERSION, IndexName, index_template, template_name
from sinks.elasticsearch.limiter import WriteLimiter
from sinks.elasticsearch.settings import ElasticsearchSettings
from sinks.shared.http import Reply
from sinks.shared.redaction import Redactor

log = structlog.get_logger()

TEMPLATE_PRIVILEGE = "manage_index_templates"
_TEMPLATE_HINT = "install or replace the index template by hand, or set manage_template = false"
_INDEX_HINT = "create missing indexes by hand"
REPLY_FIELDS = "errors,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason"
"""The fields of a bulk reply that are used. Elasticsearch leaves out the rest."""
OPEN_REQUEST_TIMEOUT = 10.0
"""Seconds for each request of `open` and `check`, unless the timeout of a write is shorter."""
SHARD_TIMEOUT_SHARE = 1 / 3
"""The part of the timeout that Elasticsearch may wait for a shard. The rest is for the reply that the shard is missing."""


class ElasticsearchSink:
    """Sends one bulk request for each write, fewer of them at a time while Elasticsearch pushes back."""

    def __init__(self, settings: ElasticsearchSettings, context: SinkContext) -> None:
        logging.getLogger("elastic_transport").setLevel(logging.CRITICAL)  # it logs every attempt; HostLog tells hosts
        self._settings = settings
        self._context = context
        self._clock = context.clock
        self._index = IndexName(settings.data_stream or settings.index)
        self._redactor = settings.auth.redactor() if settings.auth else Redactor()
        self._client: AsyncElasticsearch | None = None
        self._limiter = WriteLimiter(context.clock)
        self._log = log.bind(sink=context.name)
        self._host_log = HostLog(self._log, context.clock)
        self._warned: set[str] = set()

    async def open(self, state: str | None) -> None:
        missing = await self._missing_privileges()
        if self._settings.manage_template and TEMPLATE_PRIVILEGE not in missing and self._template_is_specific():
            await self._install_template()

    async def check(self) -> None:
        """Ask which privileges the credentials have. That also tests the connection."""
        await self._missing_privileges()

    async def write(self, batch: Batch) -> WriteResult:
        if not len(batch):
            return WriteResult()
        body = bulk_request(batch, self._index)
        async with self._limiter.slot():
            try:
                reply = await self._request(lambda client: self._bulk(client, body), writing=True)
                self._log.debug("batch sent", records=len(batch), bytes=len(body), status=reply.status)
                several = (lambda: self.destinations(batch)) if self._index.varies else None
                result = verdict(reply, len(batch), several)
            except Unavailable as error:
                self._limiter.pushed_back(error.retry_after)
                raise
            if result.retry:
                self._limiter.pushed_back()
            else:
                self._limiter.succeeded()
        return result

    def destinations(self, batch: Batch) -> Sequence[str]:
        kind = "data stream" if self._settings.data_stream else "index"
        return [f"{kind} {name}" for name in index_names(batch, self._index)]

    def describe(self, batch: Batch) -> Sequence[Mapping[str, Any]]:
        kind = "data_stream" if self._settings.data_stream else "index"
        names = zip(index_names(batch, self._index), batch.ids, batch.timestamps, strict=True)
        return [{kind: name, "_id": event_id, "@timestamp": at_timestamp(at)} for name, event_id, at in names]

    async def close(self) -> None:
        if self._client:
            client, self._client = self._client, None
            await client.close()

    # Requests

    def _bulk(self, client: AsyncElasticsearch, body: bytes) -> Awaitable[ApiResponse[Any]]:
        shard_timeout = f"{max(1, round(self._settings.timeout * SHARD_TIMEOUT_SHARE * 1000))}ms"
        stream = True if self._settings.data_stream else None
        operations: Any = body
        return client.bulk(
            operations=operations, filter_path=REPLY_FIELDS, timeout=shard_timeout, require_data_stream=stream
        )

    def _connect(self) -> AsyncElasticsearch:
        client = connect(self._settings)
        if len(self._settings.hosts) > 1:  # the delivery loop tells that the only one is down
            pool = client.transport.node_pool
            assert isinstance(pool, HostPool)
            pool.log = self._host_log
        return client

    async def _request(
        self, call: Callable[[AsyncElasticsearch], Awaitable[ApiResponse[Any]]], writing: bool = False
    ) -> Reply[Any]:
        """The reply to a request, its body decoded. Raises a SinkError if no host replies.

        If a host fails, the client passes it over and the next one is asked at once. That is safe, since every request may
        be sent twice. Only a write without a reply in time is left to the delivery loop: the next host may be as slow.
        """
        client = self._client = self._client or self._connect()
        if not writing:
            client = client.options(request_timeout=min(OPEN_REQUEST_TIMEOUT, self._settings.timeout))
        hosts = len(self._settings.hosts)
        for host in range(1, hosts + 1):
            try:
                reply = await call(client)
            except UnsupportedProductError:
                raise Misconfigured("the server is not Elasticsearch; check `hosts`") from None
            except ApiError as error:
                body = self._redactor.value(error.body)
                return Reply(error.meta.status, error.meta.headers, body, self._clock.time())
            except TransportError as error:
                if host == hosts or (writing and isinstance(error, ConnectionTimeout)):
                    raise transport_error(error) from error
            else:
                if not isinstance(reply.body, dict):
                    raise OutcomeUnknown(f"HTTP {reply.meta.status}: the reply is not JSON")
                return Reply(reply.meta.status, reply.meta.headers, reply.body, self._clock.time())
        raise AssertionError("settings have at least one host")

    # What open needs

    async def _missing_privileges(self) -> list[str]:
        """Missing privileges that writes don't always need; warns of each. Empty if security is turned off.

        Raises a SinkError.
        """
        index = {"names": [self._index.pattern], "privileges": ["create_doc", "auto_configure"]}
        cluster = [TEMPLATE_PRIVILEGE] if self._settings.manage_template else []
        try:
            reply = await self._request(lambda client: client.security.has_privileges(cluster=cluster, index=[index]))
        except OutcomeUnknown as error:  # only the outcome of a write matters
            plain = any(host.startswith("http:") for host in self._settings.hosts)
            raise Unavailable(f"{error}; does it need https?" if plain else str(error)) from error
        if reply.status in (400, 404, 405) and reply.headers.get("X-Elastic-Product") == "Elasticsearch":
            return []
        if reply.status != 200:
            verdict(reply, 0)
        granted = reply.body["cluster"] | reply.body["index"][self._index.pattern]
        missing = [privilege for privilege, has in granted.items() if not has]
        if "create_doc" in missing:
            raise Misconfigured(f"the credentials lack the index privilege create_doc on {self._index.pattern}")
        if TEMPLATE_PRIVILEGE in missing:
            self._warn_of_template_privilege()
        if "auto_configure" in missing:
            self._warn("privilege missing", privilege="auto_configure", index=self._index.pattern, hint=_INDEX_HINT)
        return missing

    @property
    def _template(self) -> str:
        return template_name(self._index)

    def _template_is_specific(self) -> bool:
        """Whether the template would apply to this sink's indexes only. Warns if not."""
        if not self._index.pattern.startswith("*"):
            return True
        reason = f"{self._index.text} starts with a placeholder, so the template would apply to all indexes"
        self._warn("index template not installed", reason=reason)
        return False

    async def _install_template(self) -> None:
        """Install the index template unless it is there in this version or a later one."""
        reply = await self._request(lambda client: client.indices.get_index_template(name=self._template))
        if reply.status == 200:
            (found,) = reply.body["index_templates"]
            if found["index_template"].get("version", 0) >= TEMPLATE_VERSION:
                return
        elif reply.status != 404:
            self._template_failed(reply)
            return
        wanted = index_template(self._index, self._settings.data_stream is not None, self._context)
        reply = await self._request(lambda client: client.indices.put_index_template(name=self._template, **wanted))
        if reply.status != 200:
            self._template_failed(reply)
        else:
            self._log.info("index template installed", template=self._template, version=wanted["version"])

    def _template_failed(self, reply: Reply[Any]) -> None:
        """Only warns of a missing privilege: a person may have installed the template. Raises a SinkError otherwise."""
        if reply.status == 403:
            self._warn_of_template_privilege()
        elif reply.status == 400:
            raise Misconfigured(f"can't install the index template {self._template}: {describe_error(reply)}")
        else:
            verdict(reply, 0)

    def _warn_of_template_privilege(self) -> None:
        self._warn("privilege missing", privilege=TEMPLATE_PRIVILEGE, template=self._template, hint=_TEMPLATE_HINT)

    def _warn(self, event: str, **details: str) -> None:
        """Log a warning, but only once if the sink is opened several times."""
        if str(details) not in self._warned:
            self._warned.add(str(details))
            self._log.warning(event, **details)


SINK = SinkType(
    ElasticsearchSettings,
    ElasticsearchSink,
    delivery={"in_flight": 4},
    example={"hosts": ["https://elasticsearch:9200"], "auth": {"api_key": "${ELASTIC_API_KEY}"}},
)
