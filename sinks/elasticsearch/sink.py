"""Elasticsearch 8 and 9: each record a document under its event.id, once, however often it is written.

A batch is one bulk request. `verdict` in bulk.py sorts out what a reply says; index.py has indexes and their template. The
client keeps connections and passes over hosts that are down; it neither retries nor looks for further hosts, since the
delivery loop does the one, and the other would ask for more rights.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any

import aiohttp
import msgspec
import structlog
from elastic_transport import (
    ApiResponse,
    ConnectionTimeout,
    JsonSerializer,
    NdjsonSerializer,
    SerializationError,
    TransportError,
)
from elastic_transport.client_utils import url_to_node_config
from elasticsearch import ApiError, AsyncElasticsearch, UnsupportedProductError
from pydantic import AfterValidator, Field, model_validator

from sinks.base import Misconfigured, OutcomeUnknown, SinkContext, SinkType, Unavailable, WriteResult
from sinks.batch import Batch
from sinks.elasticsearch.bulk import bulk, explain, verdict
from sinks.elasticsearch.index import PLACEHOLDERS, VERSION, IndexName, check_name, index_template, template_name
from sinks.elasticsearch.limiter import Limiter
from sinks.settings import Seconds, Settings
from sinks.shared.http import failure, trusting, web_url
from sinks.template import template

log = structlog.get_logger()

INDEX = "bizevents-appmon-{category}-{date}"
TEMPLATES = "manage_index_templates"
_BY_HAND = "install or replace the index template by hand, or set manage_template = false"
_NO_INDEX = "indexes that are not there yet have to be created by hand"
REPLY = "errors,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason"
"""What of a bulk's reply is looked at; Elasticsearch leaves out the rest."""
OPENING = 10.0
"""Seconds for each request when it opens, or the time-out of a write where that is shorter."""
PATIENCE = 1 / 3
"""Of the time-out, the part for which Elasticsearch may wait for a shard; saying that there is none takes some, too."""

Secret = Annotated[Annotated[str, Field(pattern=r"^[!-~]+$")] | None, Field(repr=False)]
Name = Annotated[str, template(*PLACEHOLDERS), AfterValidator(check_name)]


class BasicSettings(Settings):
    """A user.

    username  of Elasticsearch
    password  take it from the environment
    """

    username: Annotated[str, Field(pattern=r"^[^:\x00-\x1f]+$")]
    password: Annotated[str, Field(min_length=1, repr=False)]


class AuthSettings(Settings):
    """One of these.

    api_key  as Elasticsearch gives it out, encoded; take it from the environment
    basic    a user's name and password
    bearer   a token; take it from the environment
    """

    api_key: Secret = None
    basic: BasicSettings | None = None
    bearer: Secret = None

    @model_validator(mode="after")
    def _one(self) -> "AuthSettings":
        if len(self.model_fields_set) != 1 or not (self.api_key or self.basic or self.bearer):
            raise ValueError("needs one of api_key, basic and bearer")
        return self

    def secrets(self) -> list[str]:
        return [text for text in (self.api_key, self.bearer, self.basic and self.basic.password) if text]


class ElasticsearchSettings(Settings):
    """Records as documents of Elasticsearch.

    hosts            urls of nodes, or of what stands before them; one that is down is passed over
    auth             credentials, where Elasticsearch asks for some
    ca               PEM file of further certificates to trust
    index            what records go to; knows {name}, {application}, {system_profile}, {server}, {category} and {date}
    data_stream      a data stream instead of an index, with the same placeholders
    manage_template  install an index template that is made from the field table, or replace an older one
    timeout          from the start of a request to the end of its reply
    """

    hosts: Annotated[list[Annotated[str, AfterValidator(web_url)]], Field(min_length=1)]
    auth: AuthSettings | None = None
    ca: str | None = None
    index: Name = INDEX
    data_stream: Name | None = None
    manage_template: bool = True
    timeout: Annotated[Seconds, Field(gt=0)] = 60.0

    @model_validator(mode="after")
    def _one_target(self) -> "ElasticsearchSettings":
        if self.data_stream is not None and "index" in self.model_fields_set:
            raise ValueError("takes either index or data_stream")
        return self


class ElasticsearchSink:
    """One client for all requests; each write is one bulk, and waits while Elasticsearch wants fewer of them."""

    def __init__(self, settings: ElasticsearchSettings, context: SinkContext) -> None:
        self._settings = settings
        self._context = context
        self._index = IndexName(settings.data_stream or settings.index)
        self._client: AsyncElasticsearch | None = None
        self._limiter = Limiter()
        self._log = log.bind(sink=context.name)
        self._warned: set[str] = set()

    async def open(self, state: str | None) -> None:
        missing = await self._missing_privileges()
        if self._settings.manage_template and TEMPLATES not in missing and self._template_is_safe():
            await self._install_template()

    async def check(self) -> None:
        """Ask what these credentials may do. It also shows whether somebody is there, and who."""
        await self._missing_privileges()

    async def write(self, batch: Batch) -> WriteResult:
        if not len(batch):
            return WriteResult()
        body = bulk(batch, self._index)
        async with self._limiter.place():
            try:
                result = verdict(*await self._ask(lambda client: self._bulk(client, body), writing=True), len(batch))
            except Unavailable:
                self._limiter.less()
                raise
            if result.retry:
                self._limiter.less()
            else:
                self._limiter.more()
        return result

    async def close(self) -> None:
        if self._client:
            client, self._client = self._client, None
            await client.close()

    # Requests

    def _bulk(self, client: AsyncElasticsearch, body: bytes) -> Awaitable[ApiResponse[Any]]:
        patience = f"{max(1, round(self._settings.timeout * PATIENCE * 1000))}ms"
        stream = True if self._settings.data_stream else None
        prepared: Any = body
        return client.bulk(operations=prepared, filter_path=REPLY, timeout=patience, require_data_stream=stream)

    async def _ask(
        self, call: Callable[[AsyncElasticsearch], Awaitable[ApiResponse[Any]]], writing: bool = False
    ) -> tuple[int, Mapping[str, str], Any]:
        """Status, headers and decoded body of a reply. Where one host fails, the client passes it over, and the next is
        asked at once; that is safe, since every request may come twice. Only a write that had no reply in time waits for
        the delivery loop: the next host may be as slow. Raises a SinkError where none replied."""
        client = self._client = self._client or connect(self._settings)
        if not writing:
            client = client.options(request_timeout=min(OPENING, self._settings.timeout))
        hosts = len(self._settings.hosts)
        for host in range(1, hosts + 1):
            try:
                reply = await call(client)
            except UnsupportedProductError:
                raise Misconfigured("somebody answers who is not Elasticsearch: are `hosts` right?") from None
            except ApiError as error:
                return error.meta.status, error.meta.headers, self._struck_out(error.body)
            except TransportError as error:
                if host == hosts or (writing and isinstance(error, ConnectionTimeout)):
                    raise _failure(error) from error
            else:
                return reply.meta.status, reply.meta.headers, reply.body
        raise AssertionError("there is a host")

    def _struck_out(self, answer: Any) -> Any:
        """An error's body without our own secrets."""
        text = msgspec.json.encode(answer)
        for secret in self._settings.auth.secrets() if self._settings.auth else []:
            text = text.replace(msgspec.json.encode(secret)[1:-1], b"***")
        return msgspec.json.decode(text)

    # What open needs

    async def _missing_privileges(self) -> list[str]:
        """Those that are missed without being needed for each write; each is a warning. Where there is no security,
        nobody asks for any. Raises a SinkError."""
        index = {"names": [self._index.pattern], "privileges": ["create_doc", "auto_configure"]}
        cluster = [TEMPLATES] if self._settings.manage_template else []
        try:
            status, headers, answer = await self._ask(
                lambda client: client.security.has_privileges(cluster=cluster, index=[index])
            )
        except OutcomeUnknown as error:  # which matters to writes alone
            plain = any(host.startswith("http:") for host in self._settings.hosts)
            raise Unavailable(f"{error}; does it want https?" if plain else str(error)) from error
        if status in (400, 404, 405) and headers.get("X-Elastic-Product") == "Elasticsearch":
            return []
        if status != 200:
            verdict(status, headers, answer, 0)
        granted = answer["cluster"] | answer["index"][self._index.pattern]
        missing = [privilege for privilege, has in granted.items() if not has]
        if "create_doc" in missing:
            raise Misconfigured(f"these credentials lack the index privilege create_doc on {self._index.pattern}")
        if TEMPLATES in missing:
            self._warn("a privilege is missing", privilege=TEMPLATES, template=self._template, instead=_BY_HAND)
        if "auto_configure" in missing:
            self._warn("a privilege is missing", privilege="auto_configure", index=self._index.pattern, instead=_NO_INDEX)
        return missing

    @property
    def _template(self) -> str:
        return template_name(self._index)

    def _template_is_safe(self) -> bool:
        if not self._index.pattern.startswith("*"):
            return True
        self._warn(
            "no index template is installed",
            why=f"{self._index.text} begins with a placeholder: it would be for all indexes",
        )
        return False

    async def _install_template(self) -> None:
        """Unless there is one that is as new."""
        status, headers, answer = await self._ask(lambda client: client.indices.get_index_template(name=self._template))
        if status == 200:
            (found,) = answer["index_templates"]
            if found["index_template"].get("version", 0) >= VERSION:
                return
        elif status != 404:
            self._template_failed(status, headers, answer)
            return
        wanted = index_template(self._index, self._settings.data_stream is not None, self._context)
        status, headers, answer = await self._ask(
            lambda client: client.indices.put_index_template(name=self._template, **wanted)
        )
        if status != 200:
            self._template_failed(status, headers, answer)
        else:
            self._log.info("index template installed", template=self._template, version=wanted["version"])

    def _warn(self, event: str, **details: str) -> None:
        """Once, however often it is opened."""
        if str(details) not in self._warned:
            self._warned.add(str(details))
            self._log.warning(event, **details)

    def _template_failed(self, status: int, headers: Mapping[str, str], answer: Any) -> None:
        """Without the right is a warning: a person may have installed it. What Elasticsearch can't take needs one."""
        if status == 403:
            self._warn("a privilege is missing", privilege=TEMPLATES, template=self._template, instead=_BY_HAND)
        elif status == 400:
            raise Misconfigured(f"the index template {self._template} can't be installed: {explain(status, answer)}")
        else:
            verdict(status, headers, answer, 0)


class _Json(JsonSerializer):
    """A bulk's reply has an object for each record."""

    def json_loads(self, data: bytes) -> Any:
        return msgspec.json.decode(data)


class _Prepared(NdjsonSerializer):
    """A bulk that is made already goes out as it is, uncopied."""

    def dumps(self, data: Any) -> bytes:
        return data if isinstance(data, bytes) else super().dumps(data)


def connect(settings: ElasticsearchSettings) -> AsyncElasticsearch:
    """A client for these hosts and credentials; nothing is sent. Raises Misconfigured."""
    context = trusting(settings.ca)
    nodes = [url_to_node_config(host, use_default_ports_for_scheme=True) for host in settings.hosts]
    auth = settings.auth or AuthSettings.model_construct()
    return AsyncElasticsearch(
        [node.replace(ssl_context=context) if node.scheme == "https" else node for node in nodes],
        api_key=auth.api_key,
        basic_auth=(auth.basic.username, auth.basic.password) if auth.basic else None,
        bearer_auth=auth.bearer,
        headers={"User-Agent": "btfeed"},
        serializers={JsonSerializer.mimetype: _Json(), NdjsonSerializer.mimetype: _Prepared()},
        request_timeout=settings.timeout,
        connections_per_node=64,  # as many as delivery.in_flight may be
        max_retries=0,
        retry_on_status=(),
    )


def _failure(error: TransportError) -> Unavailable | Misconfigured:
    """What a request without a reply says of its outcome. The transport leaves aiohttp's error where Python keeps it."""
    if isinstance(error, ConnectionTimeout):
        return OutcomeUnknown("no reply in time")
    if isinstance(error, SerializationError):
        return OutcomeUnknown("the reply is no JSON")
    cause = error.__context__
    if isinstance(cause, aiohttp.ClientConnectorSSLError):
        return Unavailable(f"{failure(cause)}; does it speak https?")
    return failure(cause) if isinstance(cause, aiohttp.ClientError) else OutcomeUnknown(str(error))


SINK = SinkType(ElasticsearchSettings, ElasticsearchSink, delivery={"in_flight": 4})
