"""Dynatrace's bizevent ingest API: records as business events, at least once. A partly accepted batch is never sent again.

A batch is one request: the records as a JSON array, or each inside a CloudEvent. `verdict` decides what became of it.
Dynatrace does not detect duplicates: if a reply is lost, the same events may be stored twice, with equal event.id.

Dynatrace silently drops events that are older than a day. The sink's default `max_age` makes them dead letters instead.
"""

import asyncio
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
import structlog
from pydantic import AfterValidator, Field, model_validator

from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, SinkContext, SinkType, Unavailable, WriteResult
from sinks.batch import Batch
from sinks.settings import Place, Seconds, Settings, Token
from sinks.shared.cloud_events import SPEC_VERSION, read_head
from sinks.shared.http import HttpClient, Reply, ServiceUrl, decode_json, describe_reply, error_message, shorten
from sinks.shared.oauth import OAuthSettings, OAuthTokens
from sinks.shared.redaction import Redactor

log = structlog.get_logger()

MAX_REQUEST_SIZE = 5_000_000
"""Bytes of a request's body that Dynatrace accepts."""
MAX_SECONDS_AHEAD = 600.0
"""How far in the future an event may be. Dynatrace moves later ones back to that."""
INGEST_PATH = "/v2/bizevents/ingest"
PLATFORM_PATH = "/platform/classic/environment-api"
CLOUD_EVENTS_TYPE = "application/cloudevents-batch+json"
_PLATFORM_HOST = re.compile(r"\.apps\.dynatrace(labs)?\.com$")
_DYNATRACE_HOST = re.compile(r"(^|\.)dynatrace(labs)?\.com$")


def _environment_url(url: str) -> str:
    if urlsplit(url).path.rstrip("/").endswith("/bizevents/ingest"):
        raise ValueError("write the environment's base URL; the sink adds the path of the API")
    return url.rstrip("/")


class BizeventsSettings(Settings):
    """Records as business events of Dynatrace.

    url           the environment's base URL: SaaS `https://ENV.live.dynatrace.com`, ActiveGate `https://HOST:9999/e/ENV`,
                  platform `https://ENV.apps.dynatrace.com`
    api_token     an API token with the scope `bizevents.ingest`; take it from the environment
    oauth         an OAuth client instead of an API token; required by the platform's URL
    ca            PEM file with further certificates to trust, such as an ActiveGate's
    gzip          compress requests; Dynatrace does not document that it accepts them
    cloud_events  send batches of CloudEvents instead of plain JSON
    on_unknown    what to do with a batch that may have been accepted: `retry` may duplicate events, `dead-letter` lose them
    timeout       for a request, until the end of its reply
    """

    url: Annotated[ServiceUrl, AfterValidator(_environment_url)]
    api_token: Token | None = None
    oauth: OAuthSettings | None = None
    ca: Place | None = None
    gzip: bool = False
    cloud_events: bool = False
    on_unknown: Literal["retry", "dead-letter"] = "retry"
    timeout: Annotated[Seconds, Field(gt=0)] = 30.0

    @model_validator(mode="after")
    def _one_credential(self) -> "BizeventsSettings":
        if (self.api_token is None) == (self.oauth is None):
            raise ValueError("set either api_token or oauth")
        return self


def ingest_url(settings: BizeventsSettings) -> str:
    """The URL to post to. Raises Misconfigured if the environment's URL and the credentials don't go together."""
    url = urlsplit(settings.url)
    host, path = url.hostname or "", url.path
    platform = bool(_PLATFORM_HOST.search(host)) or path.endswith(PLATFORM_PATH)
    token = settings.api_token.get_secret_value() if settings.api_token else ""
    client_secret = settings.oauth.client_secret.get_secret_value() if settings.oauth else ""
    if url.scheme == "http" and _DYNATRACE_HOST.search(host):
        raise Misconfigured(f"http would send the credentials unencrypted; write https://{host}")
    if platform and token:
        raise Misconfigured(
            "the platform's URL does not accept api_token; use oauth, or the URL https://ENV.live.dynatrace.com"
        )
    if token.startswith("dt0s"):
        raise Misconfigured("api_token is an OAuth client secret or a platform token; an API token starts with dt0c01")
    if client_secret.startswith("dt0c"):
        raise Misconfigured("oauth.client_secret is an API token; write it as api_token, or use the client's secret")
    if not platform:
        return f"{settings.url}/api{INGEST_PATH}"
    return settings.url.removesuffix(PLATFORM_PATH) + PLATFORM_PATH + INGEST_PATH


class BizeventsSink:
    """Sends one request for each write, all with the same HTTP client."""

    def __init__(self, settings: BizeventsSettings, context: SinkContext) -> None:
        self._settings = settings
        self._clock = context.clock
        redactor = Redactor(settings.api_token, settings.oauth.client_secret if settings.oauth else None)
        self._client = HttpClient(settings.timeout, settings.ca, redactor, context.clock)
        self._tokens = OAuthTokens(settings.oauth, self._client, context.clock) if settings.oauth else None
        self._encode: Callable[[Batch], bytes] = cloud_events if settings.cloud_events else json_array
        self._url = ""
        self._headers = {"Content-Type": CLOUD_EVENTS_TYPE if settings.cloud_events else "application/json"}
        if settings.gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._log = log.bind(sink=context.name)

    async def open(self, state: str | None) -> None:
        await self.check()

    async def check(self) -> None:
        """Post an empty array: that tests URL, credentials and scopes, and stores nothing."""
        self._url = ingest_url(self._settings)
        self._client.open()
        reply = await self._post(b"[]", cancelled_is_unknown=False)
        if reply.status == 400:  # the API may refuse the empty array, but only after it accepted the credentials
            return
        try:
            verdict(reply, ())
        except BatchRefused as error:
            raise Misconfigured(f"even an empty request is refused: {error}") from error

    async def write(self, batch: Batch) -> WriteResult:
        """Send as many records as fit in one request. The others are in `retry`."""
        if not len(batch):
            return WriteResult()
        count, body = len(batch), self._encode(batch)
        while len(body) > MAX_REQUEST_SIZE and count > 1:
            count //= 2
            body = self._encode(batch.slice(0, count))
        rest = range(count, len(batch))
        if len(body) > MAX_REQUEST_SIZE:
            reason = f"too large: {len(body)} bytes, but Dynatrace accepts {MAX_REQUEST_SIZE} in a request"
            return WriteResult(rest, {0: reason})
        sent = batch.slice(0, count)
        try:
            reply = await self._post(body, cancelled_is_unknown=True)
            self._log.debug("batch sent", records=count, bytes=len(body), status=reply.status)
            result = verdict(reply, sent.ids)
        except OutcomeUnknown as error:
            error.again = self._settings.on_unknown == "retry"
            raise
        return replace(result, retry=rest, flagged=self._flagged(sent, result))

    def describe(self, batch: Batch) -> Sequence[Mapping[str, Any]]:
        """The attributes of the CloudEvent in which each record is sent, if it is."""
        if not self._settings.cloud_events:
            return [{}] * len(batch)
        return [{"event": attributes(*each)} for each in zip(batch.ids, batch.bodies, strict=True)]

    async def close(self) -> None:
        await self._client.close()

    async def _post(self, body: bytes, cancelled_is_unknown: bool) -> Reply[bytes]:
        """Post `body`, see HttpClient. If an OAuth token is rejected that was accepted before, try again with a new one."""
        if self._settings.gzip:
            body = await asyncio.to_thread(zlib.compress, body, wbits=31)

        async def send(authorization: str) -> Reply[bytes]:
            headers = self._headers | {"Authorization": authorization}
            return await self._client.post(self._url, body, headers, cancelled_is_unknown=cancelled_is_unknown)

        if self._tokens is None:
            assert self._settings.api_token
            return await send(f"Api-Token {self._settings.api_token.get_secret_value()}")
        token = await self._tokens.token()
        reply = await send(f"Bearer {token}")
        if reply.status == 401 and self._tokens.mark_rejected(token):
            token = await self._tokens.token()
            reply = await send(f"Bearer {token}")
        if reply.status != 401:
            self._tokens.mark_accepted(token)
        return reply

    def _flagged(self, sent: Batch, result: WriteResult) -> dict[str, int]:
        """Counts delivered records that are so far in the future that Dynatrace changes their time."""
        latest = (self._clock.time() + MAX_SECONDS_AHEAD) * 1000
        if max(sent.timestamps) <= latest:
            return {}
        ahead = sum(at > latest and index not in result.refused for index, at in enumerate(sent.timestamps))
        return {"far_future": ahead} if ahead else {}


def json_array(batch: Batch) -> bytes:
    """The records as a JSON array. Records contain no newlines, so each newline in the batch separates two of them."""
    return b"[" + batch.ndjson[:-1].replace(b"\n", b",") + b"]"


def cloud_events(batch: Batch) -> bytes:
    """A batch of CloudEvents: the data of each is a record, its attributes are the record's id, provider, type and time."""
    events = [
        msgspec.json.encode(attributes(event_id, body))[:-1] + b',"data":' + body + b"}"
        for event_id, body in zip(batch.ids, batch.bodies, strict=True)
    ]
    return b"[" + b",".join(events) + b"]"


def attributes(event_id: str, body: bytes) -> dict[str, str]:
    """The attributes of the CloudEvent for a record."""
    head = read_head(body)
    event = {"specversion": SPEC_VERSION, "id": event_id, "source": head.source, "type": head.kind}
    if head.timestamp:
        event["time"] = head.timestamp
    return event | {"datacontenttype": "application/json"}


def verdict(reply: Reply[bytes], records: Sequence[str]) -> WriteResult:
    """What became of the request with these records, given by their event.id. Raises a SinkError.

    202                  all records were taken, except those that the body lists
    400 with a list      the listed records were refused, the others were taken
    400 with one error   no record was taken: BatchRefused
    413                  too large: BatchRefused
    429, 503             Unavailable
    408, other 5xx       OutcomeUnknown
    anything else        wrong credentials or a wrong URL: Misconfigured
    """
    answer = decode_json(reply.body)
    listed = answer.get("errors") if isinstance(answer, dict) else None
    if reply.status in (202, 400) and isinstance(listed, list) and (listed or reply.status == 400):
        return WriteResult(refused=_refused(listed, records))
    if reply.status == 202:
        return WriteResult()
    description = describe_reply(reply)
    if reply.status in (400, 413):
        raise BatchRefused(description)
    if reply.status in (429, 503):
        raise Unavailable(description, reply.retry_after)
    if reply.status == 408 or reply.status >= 500:
        raise OutcomeUnknown(description, reply.retry_after)
    raise Misconfigured(f"{description}; {_HINTS.get(reply.status, _NOT_THE_API)}")


_NOT_THE_API = "unexpected answer: check that `url` is the environment's base URL"
_HINTS = {
    401: "check that the token is right, not expired and not disabled; an OAuth client also needs a policy for its scope",
    403: "an API token needs the scope bizevents.ingest, an OAuth client storage:events:write",
    404: "check that `url` is the environment's base URL (an ActiveGate's ends with /e/ENV); the sink adds the API's path",
    407: "check the proxy's credentials in the environment",
}


def _refused(listed: Sequence[Any], records: Sequence[str]) -> dict[int, str]:
    """The refused records: index -> reason.

    If an error names no record of the batch, every record without an error of its own may be the refused one. The batch
    can't be sent again, since part of it was taken, so all of them are refused and kept as dead letters.
    """
    refused: dict[int, str] = {}
    unassigned = ""
    for item in listed:
        index = _index(item, records)
        reason = shorten(error_message(item)) or "refused without a message"
        if index is None:
            unassigned = reason
        else:
            refused[index] = f"{refused[index]}; {reason}" if index in refused else reason
    if unassigned or not listed:
        reason = f"Dynatrace refused part of the batch without saying which records; this one may be stored: {unassigned}"
        refused |= {index: reason for index in range(len(records)) if index not in refused}
    return refused


def _index(error: Any, records: Sequence[str]) -> int | None:
    """The record that an error names, by its index or else by its event.id."""
    if not isinstance(error, dict):
        return None
    index, event_id = error.get("index"), error.get("id")
    if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(records):
        return index
    return records.index(event_id) if isinstance(event_id, str) and event_id in records else None


SINK = SinkType(
    BizeventsSettings,
    BizeventsSink,
    delivery={"max_records": 400, "max_bytes": "4.5MiB", "max_age": "23h55m", "in_flight": 4},
    example={"url": "https://ENVIRONMENT.live.dynatrace.com", "api_token": "${DYNATRACE_TOKEN}"},
)
