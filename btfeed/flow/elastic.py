"""Reads documents of Elasticsearch 8 and 9 into files, by point in time: all of one moment, each once, or none.

A search of a point in time sees no later change. Pages follow each other by `_shard_doc`, the order in which shards keep
documents, which costs no sorting. Two slices are read at a time. Numbers of half the data would be wrong, so a shard that
fails, a search that times out, or fewer documents than were counted end the reading with an error.

The connection is the Elasticsearch sink's own (sinks/elasticsearch/client.py) with its settings: hosts, credentials, TLS
and what its errors mean are in one place, and `--sink NAME` reads with what that sink writes with.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import msgspec
from elastic_transport import SerializerCollection, TransportError
from elasticsearch import ApiError, UnsupportedProductError

from btfeed.flow.damage import SourceError
from btfeed.flow.definition import Definition
from btfeed.flow.matching import Match, conditions
from btfeed.flow.options import Source
from btfeed.flow.sources import Scan
from sinks.base import SinkError
from sinks.elasticsearch.client import connect, transport_error
from sinks.elasticsearch.index import IGNORE_ABOVE
from sinks.elasticsearch.settings import AuthSettings, ElasticsearchSettings
from sinks.shared.clock import SYSTEM_CLOCK, Clock
from sinks.shared.http import MAX_RETRY_AFTER, Reply, shorten
from sinks.shared.redaction import Redactor

PAGE = 10_000
"""Documents of a page: the most that an index allows by default."""
SLICES = 2
KEEP_ALIVE = "5m"
"""How long the server keeps the point in time after each request."""
WAITS = 8
"""How often a server that is too busy (429) is asked again: about two minutes."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds."""
KEYWORDS = {"keyword", "constant_keyword"}
"""Types of fields that are compared as whole texts."""
PUREPATH = "appmon.purepath.id"
_FILTER = "pit_id,timed_out,_shards.failed,_shards.failures,hits.total.value,hits.hits._source,hits.hits.sort,error,status"


class _Hit(msgspec.Struct):
    source: dict[str, Any] = msgspec.field(name="_source", default_factory=dict)
    sort: list[Any] = msgspec.field(default_factory=list)


class _Total(msgspec.Struct):
    value: int = 0


class _Hits(msgspec.Struct):
    total: _Total | None = None
    hits: list[_Hit] = msgspec.field(default_factory=list)


class _Shards(msgspec.Struct):
    failed: int = 0
    failures: list[dict[str, Any]] = msgspec.field(default_factory=list)


class _Page(msgspec.Struct):
    """What a search answers."""

    pit_id: str = ""
    timed_out: bool = False
    shards: _Shards = msgspec.field(name="_shards", default_factory=_Shards)
    hits: _Hits = msgspec.field(default_factory=_Hits)


class _Undecoded(SerializerCollection):
    """Leaves the body of a reply as it is: pages are decoded here, and a proxy's reply may be of any type."""

    def loads(self, data: bytes, mimetype: str | None = None) -> Any:
        return data


@dataclass(frozen=True, slots=True)
class Place:
    """Where documents are. index: a name, with `*`, or several with commas."""

    settings: ElasticsearchSettings
    index: str


def read(
    where: Place, definition: Definition, fields: Sequence[str] | None, spool: Path, clock: Clock = SYSTEM_CLOCK
) -> Scan:
    """The documents that a report of this definition may need, in files of the spool. Raises SourceError.

    fields  the record fields that are needed; None: all, of all documents that the definition's `where` may fit
    """

    async def run(reader: "_Reader") -> list[Path]:
        keywords = await reader.keywords(_fields_of(definition))
        return await reader.pages(query(definition, keywords, every=fields is None), fields, "all")

    return _run(where, run, spool, clock)


def read_flows(
    where: Place, definition: Definition, flows: Sequence[str], spool: Path, clock: Clock = SYSTEM_CLOCK
) -> Scan:
    """The documents of a few flows, and the PurePaths behind their actions: two short queries. Raises SourceError."""

    async def run(reader: "_Reader") -> list[Path]:
        keywords = await reader.keywords({*definition.correlations, PUREPATH})
        if keywords < {*definition.correlations, PUREPATH}:
            return await reader.pages({"match_all": {}}, None, "all")
        any_of = [{"terms": {field: list(flows)}} for field in definition.correlations]
        paths = await reader.pages({"bool": {"should": any_of, "minimum_should_match": 1}}, None, "flow")
        lines = (line for path in paths for line in path.read_bytes().splitlines())
        found = {str(record[PUREPATH]) for line in lines if PUREPATH in (record := msgspec.json.decode(line))}
        if not found:
            return paths
        others = {"filter": [{"terms": {PUREPATH: sorted(found)}}], "must_not": any_of}
        return paths + await reader.pages({"bool": others}, None, "purepaths")

    return _run(where, run, spool, clock)


def query(definition: Definition, keywords: Collection[str], every: bool = False) -> dict[str, Any]:
    """A query that every record fits that the definition needs; more may, since all are judged again.

    keywords  the fields that Elasticsearch compares as whole texts, as the definition does
    every     also records that are no step
    """
    filters = _terms(conditions(definition.where), keywords)
    steps = [step.matches for step in definition.steps]
    steps += [conditions(match) for step in definition.steps for match in step.exceptions]
    steps += [conditions(definition.ends)] if definition.ends else []
    wanted = [_terms(match, keywords) for match in steps]
    if all(wanted) and not every:
        any_of = [{"bool": {"filter": terms}} for terms in wanted]
        filters = [*filters, {"bool": {"should": any_of, "minimum_should_match": 1}}]
    return {"bool": {"filter": filters}} if filters else {"match_all": {}}


def _terms(match: Match, keywords: Collection[str]) -> list[dict[str, Any]]:
    """The conditions of a match that Elasticsearch can judge just so: whole texts that are short enough to be indexed."""
    return [
        {"terms": {each.field: list(each.any_of)}}
        for each in match
        if each.any_of
        and each.field in keywords
        and all(isinstance(value, str) and len(value) <= IGNORE_ABOVE for value in each.any_of)
    ]


def _fields_of(definition: Definition) -> set[str]:
    """The fields that conditions are on."""
    matches = [definition.where, definition.ends or {}]
    matches += [match for step in definition.steps for match in (step.match, *step.exceptions)]
    return {"event.type", *(field for match in matches for field in match)}


def _run(where: Place, run: "Callable[[_Reader], Awaitable[list[Path]]]", spool: Path, clock: Clock) -> Scan:
    async def reading() -> Scan:
        reader = _Reader(where, spool, clock)
        try:
            now = round(clock.time() * 1000)
            return Scan(Source("elasticsearch", tuple(await run(reader)), now=now), spool=spool)
        finally:
            await reader.close()

    return asyncio.run(reading())


class _Reader:
    """Requests to one place. Methods raise SourceError."""

    def __init__(self, where: Place, spool: Path, clock: Clock) -> None:
        self._settings = where.settings
        self._index = where.index
        self._spool = spool
        self._clock = clock
        self._redactor = self._settings.auth.redactor() if self._settings.auth else Redactor()
        try:
            self._client = connect(self._settings)
        except SinkError as error:
            raise SourceError(f"{self._hosts}: {error}") from None
        self._client.transport.serializers = _Undecoded(self._client.transport.serializers.serializers)

    async def close(self) -> None:
        await self._client.close()

    async def keywords(self, fields: Collection[str]) -> set[str]:
        """Those of the fields that are keywords in all indexes: on others, such as analyzed texts, terms fit otherwise."""
        named = quote(",".join(sorted(fields)), safe=",")
        reply = await self._ask("GET", f"/{self._target}/_field_caps?fields={named}&allow_no_indices=true")
        caps: dict[str, dict[str, Any]] = msgspec.json.decode(reply).get("fields", {})
        return {field for field, types in caps.items() if types.keys() <= KEYWORDS}

    async def pages(self, query: Mapping[str, Any], fields: Sequence[str] | None, name: str) -> list[Path]:
        """All documents that match, as records in files of the spool. name: of the files."""
        paths = [self._spool / f"elasticsearch-{name}-{number}.ndjson" for number in range(SLICES)]
        try:
            async with self._point_in_time() as pit, asyncio.TaskGroup() as group:
                for number, path in enumerate(paths):
                    group.create_task(self._slice(pit, number, query, fields, path))
        except ExceptionGroup as errors:
            first = errors.exceptions[0]
            if isinstance(first, OSError):
                raise SourceError(f"can't write to {self._spool}: {first.strerror}; see --temp") from None
            raise first from None
        return paths

    @property
    def _target(self) -> str:
        return quote(self._index, safe="*,-")

    @property
    def _hosts(self) -> str:
        return ", ".join(self._settings.hosts)

    @asynccontextmanager
    async def _point_in_time(self) -> AsyncIterator[str]:
        """Open one, and close it whatever happens: servers allow few of them."""
        path = f"/{self._target}/_pit?keep_alive={KEEP_ALIVE}"
        opened = msgspec.json.decode(await self._ask("POST", path), type=dict[str, Any])
        shards = opened.get("_shards", {})
        try:
            if shards.get("failed"):
                raise SourceError(f"{self._hosts}: {shards['failed']} of {shards['total']} shards can't be read")
            if not shards.get("total", 1):
                raise SourceError(f"{self._hosts}: no index matches {self._index}: see --index")
            yield opened["id"]
        finally:
            with suppress(SourceError):  # it ends by itself, after KEEP_ALIVE
                await self._ask("DELETE", "/_pit", {"id": opened["id"]})

    async def _slice(
        self, pit: str, number: int, query: Mapping[str, Any], fields: Sequence[str] | None, path: Path
    ) -> None:
        """Read one slice page by page. Raises SourceError, and OSError if the spool can't be written."""
        expected = received = 0
        after: list[Any] | None = None
        with path.open("wb") as out:
            while True:
                body: dict[str, Any] = {
                    "size": PAGE,
                    "query": query,
                    "_source": True if fields is None else list(fields),
                    "sort": [{"_shard_doc": "asc"}],
                    "pit": {"id": pit, "keep_alive": KEEP_ALIVE},
                    "slice": {"id": number, "max": SLICES},
                    "track_total_hits": after is None,
                    **({"search_after": after} if after else {}),
                }
                page = self._page(await self._ask("POST", _SEARCH, body))
                hits = page.hits.hits
                expected = page.hits.total.value if page.hits.total and after is None else expected
                await asyncio.to_thread(_write, out, hits)
                received += len(hits)
                if len(hits) < PAGE:
                    break
                pit, after = page.pit_id or pit, hits[-1].sort
        if received != expected:
            raise SourceError(f"{self._hosts}: {received} of {expected} documents came: no numbers of a part of the data")

    def _page(self, body: bytes) -> _Page:
        """The page. Raises SourceError unless it is whole."""
        try:
            page = msgspec.json.decode(body, type=_Page)
        except msgspec.DecodeError:
            raise SourceError(f"{self._hosts}: the reply is not one of Elasticsearch") from None
        if page.shards.failed:
            why = next((str(each.get("reason", {}).get("reason", "")) for each in page.shards.failures), "")
            raise SourceError(f"{self._hosts}: a shard failed: {shorten(self._redactor.text(why))}")
        if page.timed_out:
            raise SourceError(f"{self._hosts}: the search timed out: no numbers of a part of the data")
        return page

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """The body of the reply. Waits while the server is too busy. If a host fails, the next one is asked: none of the
        requests changes anything. Raises SourceError."""
        headers = {"Accept": "application/json", **({"Content-Type": "application/json"} if body else {})}
        hosts, waits = len(self._settings.hosts), 0
        while True:
            try:
                reply = await self._client.perform_request(method, path, headers=headers, body=body)
                return bytes(reply.body)
            except UnsupportedProductError:
                raise SourceError(f"{self._hosts}: the server is not Elasticsearch") from None
            except ApiError as error:
                if error.meta.status == 429 and waits < WAITS:
                    asked = Reply(429, error.meta.headers, b"", self._clock.time()).retry_after
                    await self._clock.sleep(min(max(asked, FIRST_WAIT * 2**waits), LONGEST_WAIT, MAX_RETRY_AFTER))
                    waits += 1
                    continue
                raise SourceError(self._refused(error)) from None
            except TransportError as error:
                hosts -= 1
                if hosts <= 0:
                    raise SourceError(f"{self._hosts}: {transport_error(error)}") from None

    def _refused(self, error: ApiError) -> str:
        """Why a request failed, without secrets."""
        status = error.meta.status
        try:
            said = msgspec.json.decode(error.body)["error"]
            cause = (said.get("root_cause") or [said])[0]
            text = ": ".join(filter(None, (cause.get("type"), cause.get("reason"))))
        except (msgspec.DecodeError, TypeError, KeyError, AttributeError, IndexError):
            text = ""
        hints = {
            401: "credentials are needed, or wrong: see --user and --api-key-file",
            403: f"the credentials lack the privilege read on {self._index}",
            404: f"no index matches {self._index}: see --index"
            if error.meta.headers.get("x-elastic-product") == "Elasticsearch"
            else "the server is not Elasticsearch, or a proxy answers for it",
        }
        parts = [f"HTTP {status}", hints.get(status, ""), shorten(self._redactor.text(text))]
        return f"{self._hosts}: " + ": ".join(filter(None, parts))


_SEARCH = f"/_search?filter_path={_FILTER}&allow_partial_search_results=false"


def _write(out: BinaryIO, hits: Sequence[_Hit]) -> None:
    encode = msgspec.json.encode
    out.write(b"".join(encode(_flat(hit.source)) + b"\n" for hit in hits))


def _flat(source: dict[str, Any]) -> dict[str, Any]:
    """A record with dotted names, also where another program than btfeed wrote it as objects in objects."""
    if not any(type(value) is dict for value in source.values()):
        return source
    flat: dict[str, Any] = {}
    for name, value in source.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": each for inner, each in _flat(value).items()}
        else:
            flat[name] = value
    return flat


def settings_of(
    hosts: Sequence[str], user: tuple[str, str] | None, api_key: str | None, ca: Path | None
) -> ElasticsearchSettings:
    """The settings of a connection as options give it. Raises ValueError (pydantic's) if something is wrong."""
    auth: dict[str, Any] = {}
    if user:
        auth["basic"] = {"username": user[0], "password": user[1]}
    if api_key:
        auth["api_key"] = api_key
    given: dict[str, Any] = {"hosts": list(hosts)}
    given |= {"ca": str(ca)} if ca else {}
    given |= {"auth": AuthSettings.model_validate(auth)} if auth else {}
    return ElasticsearchSettings.model_validate(given)
