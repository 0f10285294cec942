"""Dynatrace's bizevent ingest API: records as business events, at least once; a partly accepted batch is never sent again.

A batch is one request: the records' own bytes as a JSON array, or each inside a CloudEvent. `verdict` says what became of
it; all of the protocol that matters to delivery is there. Dynatrace has no memory of what it took: where a reply is lost,
the same events may be there twice, with equal event.id.

What Dynatrace would lose in silence is kept from it: older records than a day become dead letters by the sink's `max_age`.
"""

import asyncio
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from pydantic import AfterValidator, Field, model_validator

from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, SinkContext, SinkType, Unavailable, WriteResult
from sinks.batch import Batch
from sinks.settings import Seconds, Settings
from sinks.shared.cloud_events import SPEC_VERSION, read_head
from sinks.shared.http import Client, decoded, explain, message, retry_after, short, web_url
from sinks.shared.oauth import OAuth, OAuthSettings

LIMIT = 5_000_000
"""Bytes of a request's body that Dynatrace takes."""
AHEAD = 600.0
"""Seconds that an event may be ahead of the clock; Dynatrace moves later ones back to that."""
INGEST = "/v2/bizevents/ingest"
CLOUD_EVENTS = "application/cloudevents-batch+json"
PLATFORM = "/platform/classic/environment-api"
_APPS = re.compile(r"\.apps\.dynatrace(labs)?\.com$")
_DYNATRACE = re.compile(r"(^|\.)dynatrace(labs)?\.com$")


def _base(url: str) -> str:
    if urlsplit(web_url(url)).path.rstrip("/").endswith("/bizevents/ingest"):
        raise ValueError("write the environment's base; the sink adds the path of the API")
    return url.rstrip("/")


class BizeventsSettings(Settings):
    """Records as business events of Dynatrace.

    url           the environment's base: SaaS `https://ENV.live.dynatrace.com`, ActiveGate `https://HOST:9999/e/ENV`,
                  platform `https://ENV.apps.dynatrace.com`
    api_token     of scope `bizevents.ingest`; take it from the environment
    oauth         an OAuth client instead of a token; the platform's url takes nothing else
    ca            PEM file of further certificates to trust, such as an ActiveGate's
    gzip          compress requests. Dynatrace does not document that it takes them
    cloud_events  send a CloudEvents batch instead of plain JSON
    on_unknown    where nobody can say whether a batch was taken: "retry" may double its events, "dead-letter" may lose them
    timeout       from the start of a request to the end of its reply
    """

    url: Annotated[str, AfterValidator(_base)]
    api_token: Annotated[Annotated[str, Field(pattern=r"^[!-~]+$")] | None, Field(repr=False)] = None
    oauth: OAuthSettings | None = None
    ca: str | None = None
    gzip: bool = False
    cloud_events: bool = False
    on_unknown: Literal["retry", "dead-letter"] = "retry"
    timeout: Annotated[Seconds, Field(gt=0)] = 30.0

    @model_validator(mode="after")
    def _one_credential(self) -> "BizeventsSettings":
        if (self.api_token is None) == (self.oauth is None):
            raise ValueError("needs either api_token or oauth")
        return self


def endpoint(settings: BizeventsSettings) -> str:
    """Where to post to. Raises Misconfigured where url and credentials do not go together."""
    url = urlsplit(settings.url)
    host, path = url.hostname or "", url.path
    platform = bool(_APPS.search(host)) or path.endswith(PLATFORM)
    token, secret = settings.api_token or "", settings.oauth.client_secret if settings.oauth else ""
    if url.scheme == "http" and _DYNATRACE.search(host):
        raise Misconfigured(f"credentials would cross the network as they are; write https://{host}")
    if platform and token:
        raise Misconfigured(
            "the platform's url takes OAuth only, and api_token is set; use oauth, or the url https://ENV.live.dynatrace.com"
        )
    if token.startswith("dt0s"):
        raise Misconfigured("api_token holds an OAuth client's secret or a platform token; an API token starts with dt0c01")
    if secret.startswith("dt0c"):
        raise Misconfigured("oauth.client_secret holds an API token; write it as api_token, or take the client's secret")
    if not platform:
        return f"{settings.url}/api{INGEST}"
    return settings.url.removesuffix(PLATFORM) + PLATFORM + INGEST


class BizeventsSink:
    """One client for all requests; each write is one of them."""

    def __init__(self, settings: BizeventsSettings, context: SinkContext) -> None:
        self._settings = settings
        secrets = [settings.api_token] if settings.api_token else []
        secrets += [settings.oauth.client_secret] if settings.oauth else []
        self._client = Client(settings.timeout, settings.ca, secrets)
        self._oauth = OAuth(settings.oauth, self._client) if settings.oauth else None
        self._encode: Callable[[Batch], bytes] = cloud_events if settings.cloud_events else plain
        self._url = ""
        self._headers = {"Content-Type": CLOUD_EVENTS if settings.cloud_events else "application/json"}
        if settings.gzip:
            self._headers["Content-Encoding"] = "gzip"

    async def open(self, state: str | None) -> None:
        await self.check()

    async def check(self) -> None:
        """Post an empty array: it shows that url, credentials and rights are right, and nothing is stored."""
        self._url = endpoint(self._settings)
        self._client.open()
        status, headers, body = await self._post(b"[]")
        if status != 400:  # it may say that this is no event; it got so far, and that is what was asked
            try:
                verdict(status, headers, body, ())
            except BatchRefused as error:
                raise Misconfigured(f"not even an empty request is taken: {error}") from error

    async def write(self, batch: Batch) -> WriteResult:
        """What is more than a request holds is left to be written again."""
        if not len(batch):
            return WriteResult()
        take, body = len(batch), self._encode(batch)
        while len(body) > LIMIT and take > 1:
            take //= 2
            body = self._encode(batch.slice(0, take))
        rest = range(take, len(batch))
        if len(body) > LIMIT:
            reason = f"too large: {len(body)} bytes, and Dynatrace takes {LIMIT} in a request"
            return WriteResult(rest, {0: reason})
        sent = batch.slice(0, take)
        try:
            result = verdict(*await self._post(body), sent.ids)
        except OutcomeUnknown as error:
            error.again = self._settings.on_unknown == "retry"
            raise
        return replace(result, retry=rest, flagged=_flagged(sent, result))

    async def close(self) -> None:
        await self._client.close()

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """The reply. A token that had been good and is no longer is exchanged once."""
        if self._settings.gzip:
            body = await asyncio.to_thread(zlib.compress, body, wbits=31)
        if self._oauth is None:
            return await self._send(body, f"Api-Token {self._settings.api_token}")
        token = await self._oauth.token()
        reply = await self._send(body, f"Bearer {token}")
        if reply[0] == 401 and self._oauth.spoilt(token):
            token = await self._oauth.token()
            reply = await self._send(body, f"Bearer {token}")
        if reply[0] != 401:
            self._oauth.worked(token)
        return reply

    async def _send(self, body: bytes, authorization: str) -> tuple[int, Mapping[str, str], bytes]:
        return await self._client.post(self._url, body, self._headers | {"Authorization": authorization})


def plain(batch: Batch) -> bytes:
    """A JSON array. No record has a line end inside, so that each one there is stands between two records."""
    return b"[" + batch.ndjson[:-1].replace(b"\n", b",") + b"]"


def cloud_events(batch: Batch) -> bytes:
    """A CloudEvents batch: each record as the data of an event that has its id, provider, type and time."""
    events = []
    for event_id, body in zip(batch.ids, batch.bodies, strict=True):
        head = read_head(body)
        event = {"specversion": SPEC_VERSION, "id": event_id, "source": head.source, "type": head.kind}
        if head.timestamp:
            event["time"] = head.timestamp
        event["datacontenttype"] = "application/json"
        events.append(msgspec.json.encode(event)[:-1] + b',"data":' + body + b"}")
    return b"[" + b",".join(events) + b"]"


def _flagged(sent: Batch, result: WriteResult) -> dict[str, int]:
    latest = (time.time() + AHEAD) * 1000
    if max(sent.timestamps) <= latest:
        return {}
    ahead = sum(at > latest and index not in result.refused for index, at in enumerate(sent.timestamps))
    return {"far_future": ahead} if ahead else {}


def verdict(status: int, headers: Mapping[str, str], body: bytes, records: Sequence[str]) -> WriteResult:
    """What became of a request that held `records`, by their event.id. Raises a SinkError.

    202          taken, but for those that the body lists
    400          with a list of errors: those are refused, the others were taken; with one error: none was taken
    413          too large
    429, 503     later
    401, 403     credentials; a wrong url: 404, and all else that is not of this API
    other 5xx    nobody knows
    """
    answer = decoded(body)
    listed = answer.get("errors") if isinstance(answer, dict) else None
    if status in (202, 400) and isinstance(listed, list) and (listed or status == 400):
        return WriteResult(refused=_refused(listed, records))
    said = explain(status, body)
    if status == 202:
        return WriteResult()
    if status in (400, 413):
        raise BatchRefused(said)
    if status in (429, 503):
        raise Unavailable(said, retry_after(headers))
    if status == 408 or status >= 500:
        raise OutcomeUnknown(said, retry_after(headers))
    raise Misconfigured(f"{said}; {_HINTS.get(status, _NOT_THE_API)}")


_NOT_THE_API = "this is not how the API answers: is `url` the base of the environment?"
_HINTS = {
    401: "is the token right, and neither expired nor disabled? An OAuth client also needs a policy that allows its scope",
    403: "an API token needs the scope bizevents.ingest, an OAuth client storage:events:write",
    404: "is `url` the base of the environment? An ActiveGate's ends with /e/ENV; the sink adds the path",
    407: "see the proxy in the environment",
}


def _refused(listed: Sequence[Any], records: Sequence[str]) -> dict[int, str]:
    """Index -> message. Where an error names no record of the batch, no one knows whose it is, and all that are not named
    are kept as dead letters: the batch can't be sent again, since some of it was taken."""
    refused: dict[int, str] = {}
    lost = ""
    for item in listed:
        index = _index(item, records)
        said = short(message(item)) or "refused without a message"
        if index is None:
            lost = said
        else:
            refused[index] = f"{refused[index]}; {said}" if index in refused else said
    if lost or not listed:
        why = f"some of its batch were refused, and Dynatrace does not say which; it may have been taken: {lost}"
        refused |= {index: why for index in range(len(records)) if index not in refused}
    return refused


def _index(item: Any, records: Sequence[str]) -> int | None:
    """Whose error that is: by its index, else by its id."""
    if not isinstance(item, dict):
        return None
    index, event_id = item.get("index"), item.get("id")
    if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(records):
        return index
    return records.index(event_id) if isinstance(event_id, str) and event_id in records else None


SINK = SinkType(
    BizeventsSettings,
    BizeventsSink,
    delivery={"max_records": 400, "max_bytes": "4.5MiB", "max_age": "23h55m", "in_flight": 4},
)
