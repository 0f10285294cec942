"""A stand-in for Dynatrace's bizevent ingest API and its OAuth token service. It enforces what is documented.

It is written from the documentation, and imports neither btfeed nor its sinks. The rules:

- paths: `/api/v2/bizevents/ingest` (SaaS), `/e/ENV/api/v2/bizevents/ingest` (ActiveGate) with an API token of the scope
  bizevents.ingest or an OAuth token; `/platform/classic/environment-api/v2/bizevents/ingest` with an OAuth token only
- 401 without valid credentials, 403 without the scope, 404 elsewhere, 413 above 5 MB, 415 for other content types
- a JSON object or array of them, or CloudEvents with their required attributes, one or a batch
- 202 if all events are taken; 400 with {"errors": [...]} if some are taken, with {"error": {...}} if no event is taken
- events older than a day are dropped silently; the time of those more than ten minutes ahead is moved back
- objects and arrays in an event are stored as JSON text; reserved fields are not stored; a missing type or provider is
  "Unknown"
- a token is valid for its life, and is answered 401 after that

Where the documentation says nothing, it does what is harder for a client: it refuses gzip and empty arrays.
"""

import asyncio
import gzip
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from ssl import SSLContext
from typing import Any
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from tests.servers.stand_in import StandIn

LIMIT = 5_000_000
DAY = 86_400.0
AHEAD = 600.0
RESERVED = ("dt.system.", "dt.ingest.", "dt.openpipeline.", "dt.retain.")
API = "/api/v2/bizevents/ingest"
PLATFORM = "/platform/classic/environment-api/v2/bizevents/ingest"
TOKEN = "/sso/oauth2/token"
CLOUD_EVENT = ("application/cloudevent+json", "application/cloudevents+json")
CLOUD_EVENTS = ("application/cloudevent-batch+json", "application/cloudevents-batch+json")
API_TOKEN = "dt0c01.STANDIN.SECRETAPITOKEN"
CLIENT_ID = "dt0s02.STANDIN"
CLIENT_SECRET = "dt0s02.STANDIN.SECRETOFCLIENT"


@dataclass
class Fault:
    """What to do with a request that has events, instead of the right thing.

    status, headers, body  the answer, if status is not 0
    commit                 take the events first
    drop                   close the connection without an answer
    delay                  seconds before the answer
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    commit: bool = False
    drop: bool = False
    delay: float = 0.0


@dataclass
class Event:
    """A taken event. raw: its bytes; stored: what a query would show."""

    raw: bytes
    stored: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.stored.get("event.id"))


@dataclass
class Request:
    """A request for ingest. at: when it came (monotonic). status: of the answer, or 0. ids: those of its events."""

    at: float
    authorization: str
    content_type: str
    proxy_authorization: str = ""
    status: int = 0
    ids: list[str] = field(default_factory=list)


class Refused(Exception):
    """The answer is this status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BizeventsServer(StandIn):
    """`with BizeventsServer() as server`: at `server.url`, in a separate thread.

    scopes       of the API token
    granted      scopes of the OAuth client
    life         seconds for which an OAuth token is valid
    silent_drop  whether old events are dropped, as Dynatrace does, or taken
    takes_gzip, takes_nothing
                 whether gzip and empty arrays are taken
    refuse       returns an error message for events to refuse
    refuse_all   returns an error message for requests to refuse as a whole
    faults       one for each request with events, until there are no more; then `always`
    """

    def __init__(self, *, tls: SSLContext | None = None, environment: str = "env") -> None:
        super().__init__(tls)
        self.scopes = {"bizevents.ingest"}
        self.granted = {"storage:events:write"}
        self.life = 300.0
        self.silent_drop = True
        self.takes_gzip = self.takes_nothing = False
        self.refuse: Callable[[dict[str, Any]], str | None] = lambda event: None
        self.refuse_all: Callable[[list[dict[str, Any]]], str | None] = lambda events: None
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.token_faults: deque[Fault] = deque()
        self.accepted: list[Event] = []
        self.dropped: list[Event] = []
        self.requests: list[Request] = []
        self.tokens_given: list[str] = []
        self.at_once = self.most_at_once = 0
        self._ends: dict[str, float] = {}  # OAuth token -> when it ends, monotonic
        self._environment = environment

    @property
    def token_url(self) -> str:
        return self.url + TOKEN

    @property
    def ids(self) -> list[str]:
        """event.id of each taken event."""
        return [event.id for event in self.accepted]

    @property
    def sent(self) -> list[Request]:
        """Requests that had events."""
        return [request for request in self.requests if request.ids]

    def end_tokens(self) -> None:
        """End all OAuth tokens now."""
        self._ends.clear()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post(TOKEN, self._token)
        app.router.add_route("*", "/{path:.*}", self._ingest)
        return app

    # OAuth

    async def _token(self, request: web.Request) -> web.Response:
        fault = self.token_faults.popleft() if self.token_faults else Fault()
        await asyncio.sleep(fault.delay)
        if fault.status:
            return web.Response(status=fault.status, headers=fault.headers, text=fault.body)
        if request.content_type != "application/x-www-form-urlencoded":
            return _oauth_error(400, "invalid_request")
        form = {name: values[0] for name, values in parse_qs(await request.text()).items()}
        if form.get("grant_type") != "client_credentials":
            return _oauth_error(400, "unsupported_grant_type")
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return _oauth_error(401, "invalid_client", f"no client {form.get('client_id')} {form.get('client_secret')}")
        if not set(form.get("scope", "").split()) <= self.granted:
            return _oauth_error(400, "invalid_scope")
        token = f"STANDINBEARER{len(self.tokens_given)}"
        self.tokens_given.append(token)
        self._ends[token] = time.monotonic() + self.life
        scope = form.get("scope", "")
        return web.json_response(
            {"access_token": token, "token_type": "Bearer", "expires_in": int(self.life), "scope": scope}
        )

    # Ingest

    async def _ingest(self, request: web.Request) -> web.StreamResponse:
        headers = request.headers
        note = Request(time.monotonic(), headers.get("Authorization", ""), headers.get("Content-Type", ""))
        note.proxy_authorization = headers.get("Proxy-Authorization", "")
        self.requests.append(note)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            answer = await self._answer(request, note)
        except Refused as refused:
            error = {"error": {"code": refused.status, "message": str(refused)}}
            answer = web.json_response(error, status=refused.status)
        finally:
            self.at_once -= 1
        note.status = answer.status if request.transport and not request.transport.is_closing() else 0
        return answer

    async def _answer(self, request: web.Request, note: Request) -> web.Response:
        self._authorize(request, self._kind(request))
        events = self._events(request, await request.read())
        note.ids = [event.id for event in events]
        fault = Fault()
        if events:
            fault = self.faults.popleft() if self.faults else self.always or fault
        if (not fault.status and not fault.drop) or fault.commit:
            answer = self._take(events)
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.drop:
            assert request.transport
            request.transport.abort()
            return web.Response()
        if fault.status:
            return web.Response(status=fault.status, headers=fault.headers, text=fault.body)
        return answer

    def _kind(self, request: web.Request) -> str:
        if request.path not in (API, f"/e/{self._environment}{API}", PLATFORM):
            raise Refused(404, "HTTP 404 Not Found")
        if request.method != "POST":
            raise Refused(405, "HTTP 405 Method Not Allowed")
        return "platform" if request.path == PLATFORM else "environment"

    def _authorize(self, request: web.Request, kind: str) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Api-Token" and kind == "environment":
            if token != API_TOKEN:
                raise Refused(401, f"Token Authentication failed for {token}")
            if "bizevents.ingest" not in self.scopes:
                raise Refused(403, f"Token {token} is missing required scope. Use one of: bizevents.ingest")
        elif scheme == "Bearer":
            if self._ends.get(token, 0) <= time.monotonic():
                raise Refused(401, f"Token {token} is expired or unknown")
        else:
            raise Refused(401, f"{scheme or 'nothing'} is not accepted here")

    def _events(self, request: web.Request, body: bytes) -> list[Event]:
        """Each event of the request. Raises Refused if the request is invalid as a whole."""
        if request.content_type not in ("application/json", *CLOUD_EVENT, *CLOUD_EVENTS):
            raise Refused(415, f"{request.content_type} is not supported")
        if len(body) > LIMIT:
            raise Refused(413, "Request body is larger than 5 MB")
        if "Content-Encoding" in request.headers:
            if request.headers["Content-Encoding"] != "gzip" or not self.takes_gzip:
                raise Refused(415, "Content-Encoding is not supported")
            body = gzip.decompress(body)
            if len(body) > LIMIT:
                raise Refused(413, "Request body is larger than 5 MB")
        try:
            json.loads(body)
            items: Any = msgspec.json.decode(body, type=list[msgspec.Raw] if body[:1] == b"[" else msgspec.Raw)
        except ValueError as error:
            raise Refused(400, f"invalid JSON: {error}") from error
        if request.content_type in (CLOUD_EVENT if isinstance(items, list) else CLOUD_EVENTS):
            raise Refused(400, "A batch where one event belongs, or the other way round")
        if items == [] and not self.takes_nothing:
            raise Refused(400, "No events")
        cloud = request.content_type != "application/json"
        return [_event(bytes(item), cloud) for item in (items if isinstance(items, list) else [items])]

    def _take(self, events: list[Event]) -> web.Response:
        reason = self.refuse_all([event.stored for event in events]) if events else None
        if reason:
            raise Refused(400, reason)
        errors = []
        for index, event in enumerate(events):
            message = event.stored.pop("", None) or self.refuse(event.stored)
            if message:
                errors.append({"id": event.id, "index": index, "message": message, "source": "bizevents"})
            else:
                self._store(event)
        if errors:
            return web.json_response({"errors": errors}, status=400)
        return web.Response(status=202)

    def _store(self, event: Event) -> None:
        now, at = time.time(), _time(event.stored.get("timestamp"))
        if self.silent_drop and at is not None and at < now - DAY:
            self.dropped.append(event)
            return
        if at is None or at > now + AHEAD:
            event.stored["timestamp"] = round(min(now + AHEAD, now if at is None else at) * 1000)
        self.accepted.append(event)


def _event(raw: bytes, cloud: bool) -> Event:
    """An event as Dynatrace stores it. If it is invalid, the field "" says why."""
    item = json.loads(raw)
    if not isinstance(item, dict):
        return Event(raw, {"": "An event is a JSON object"})
    fault = ""
    if cloud:
        fault = _cloud_fault(item)
        if "data" in item:
            raw = bytes(msgspec.json.decode(raw, type=dict[str, msgspec.Raw])["data"])
        data = item.get("data")
        head = {"event.id": "id", "event.provider": "source", "event.type": "type", "timestamp": "time"}
        named = {name: item[attribute] for name, attribute in head.items() if attribute in item}
        item = {**(data if isinstance(data, dict) else {}), **named}
    stored = {
        name: json.dumps(value) if isinstance(value, (dict, list)) else value
        for name, value in item.items()
        if not name.startswith(RESERVED)
    }
    stored = {"event.type": "Unknown", "event.provider": "Unknown"} | stored
    return Event(raw, stored | ({"": fault} if fault else {}))


def _cloud_fault(item: dict[str, Any]) -> str:
    for attribute in ("specversion", "id", "source", "type"):
        if not isinstance(item.get(attribute), str) or not item[attribute]:
            return f"{attribute} is required"
    return "" if item["specversion"] == "1.0" else "specversion is not 1.0"


def _time(value: object) -> float | None:
    """Seconds since the epoch, from an RFC 3339 time or from milliseconds."""
    if isinstance(value, (int, float)):
        return value / 1000
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return None


def _oauth_error(status: int, error: str, description: str = "") -> web.Response:
    return web.json_response({"error": error, "error_description": description}, status=status)
