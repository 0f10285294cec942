"""The stand-in for Dynatrace behaves as documented; tested without the sink."""

import gzip
import json
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.servers.bizevents import API, API_TOKEN, CLIENT_ID, CLIENT_SECRET, PLATFORM, TOKEN, BizeventsServer
from tests.support.harness import DEADLINE

DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
BATCH = "application/cloudevents-batch+json"


def ask(server: BizeventsServer, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """POST a body. Returns the status and the body of the reply. Underscores in names of headers stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with DIRECTLY.open(urllib.request.Request(server.url + path, body, named), timeout=DEADLINE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def send(server: BizeventsServer, events: Any, content_type: str = "application/json", **headers: str) -> tuple[int, bytes]:
    body = events if isinstance(events, bytes) else json.dumps(events).encode()
    headers = {"Authorization": f"Api-Token {API_TOKEN}", "Content_Type": content_type} | headers
    return ask(server, API, body, **headers)


def bearer(server: BizeventsServer, **change: str) -> tuple[int, dict[str, Any]]:
    form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    form |= {"scope": "storage:events:write"} | change
    body = "&".join(f"{name}={value}" for name, value in form.items()).encode()
    status, answer = ask(server, TOKEN, body, Content_Type="application/x-www-form-urlencoded")
    return status, json.loads(answer)


@pytest.mark.parametrize(
    ("path", "authorization", "status"),
    [
        (API, f"Api-Token {API_TOKEN}", 202),
        ("/e/env" + API, f"Api-Token {API_TOKEN}", 202),
        ("/e/other" + API, f"Api-Token {API_TOKEN}", 404),
        ("/", f"Api-Token {API_TOKEN}", 404),
        (PLATFORM, f"Api-Token {API_TOKEN}", 401),
        (API, f"Bearer {API_TOKEN}", 401),
        (API, "Api-Token other", 401),
        (API, "", 401),
    ],
)
def test_paths_and_schemes(dynatrace: BizeventsServer, path: str, authorization: str, status: int) -> None:
    """The platform's path accepts no API token; the others need one, and an environment that exists."""
    found, _ = ask(dynatrace, path, b'[{"a": 1}]', Authorization=authorization, Content_Type="application/json")
    assert found == status


def test_scopes(dynatrace: BizeventsServer) -> None:
    """403 without bizevents.ingest; no token for a scope that the client lacks."""
    dynatrace.scopes = {"logs.ingest"}
    assert send(dynatrace, [{}])[0] == 403
    assert bearer(dynatrace, scope="other")[0] == 400
    assert bearer(dynatrace, client_secret="x")[0] == 401
    assert bearer(dynatrace, grant_type="password")[0] == 400


def test_a_token_has_an_end(dynatrace: BizeventsServer) -> None:
    """It is valid on the platform's path, and 401 once it has expired."""
    _, answer = bearer(dynatrace)
    assert answer["expires_in"] == 300
    headers = {"Authorization": f"Bearer {answer['access_token']}", "Content_Type": "application/json"}
    assert ask(dynatrace, PLATFORM, b"[{}]", **headers)[0] == 202
    dynatrace.end_tokens()
    assert ask(dynatrace, PLATFORM, b"[{}]", **headers)[0] == 401


@pytest.mark.parametrize(
    ("events", "content_type", "status"),
    [
        ([{}], "application/json", 202),
        ({}, "application/json", 202),
        ([{}], "text/plain", 415),
        ([], "application/json", 400),
        (b"[{", "application/json", 400),
        ([{"specversion": "1.0", "id": "1", "source": "s", "type": "t"}], BATCH, 202),
        ([{"specversion": "1.0", "id": "1", "source": "s", "type": "t"}], "application/cloudevents+json", 400),
        ({"specversion": "1.0", "id": "1", "source": "s", "type": "t"}, "application/cloudevents+json", 202),
        ([{"specversion": "1.0", "id": "1", "source": "s"}], BATCH, 400),
        ([{"specversion": "0.3", "id": "1", "source": "s", "type": "t"}], BATCH, 400),
        (b"[" + b" " * 5_000_000 + b"{}]", "application/json", 413),
    ],
)
def test_bodies(dynatrace: BizeventsServer, events: Any, content_type: str, status: int) -> None:
    """JSON or CloudEvents, one or a batch, up to 5 MB."""
    assert send(dynatrace, events, content_type)[0] == status


def test_both_bodies_of_a_400(dynatrace: BizeventsServer) -> None:
    """A list names the refused events, and the others are stored. A single error means that none is."""
    dynatrace.refuse = lambda event: "odd" if event["n"] % 2 else None
    status, body = send(dynatrace, [{"event.id": f"e-{n}", "n": n} for n in range(3)])
    assert (status, json.loads(body)) == (
        400,
        {"errors": [{"id": "e-1", "index": 1, "message": "odd", "source": "bizevents"}]},
    )
    assert dynatrace.ids == ["e-0", "e-2"]
    dynatrace.refuse_all = lambda events: "never"
    status, body = send(dynatrace, [{"event.id": "e-4", "n": 4}])
    assert (status, json.loads(body)) == (400, {"error": {"code": 400, "message": "never"}})
    assert dynatrace.ids == ["e-0", "e-2"]


def test_gzip_is_not_documented(dynatrace: BizeventsServer) -> None:
    """It is refused unless a test allows it. The size limit applies before and after compression."""
    assert send(dynatrace, gzip.compress(b"[{}]"), Content_Encoding="gzip")[0] == 415
    dynatrace.takes_gzip = True
    assert send(dynatrace, gzip.compress(b"[{}]"), Content_Encoding="gzip")[0] == 202
    assert send(dynatrace, gzip.compress(b"[{}" + b" " * 5_000_000 + b"]"), Content_Encoding="gzip")[0] == 413


def test_what_is_stored(dynatrace: BizeventsServer) -> None:
    """No reserved fields, objects and arrays as text, `Unknown` for what is missing."""
    send(dynatrace, [{"a": [1], "dt.system.x": 1, "b": {"c": 2}, "timestamp": 0}])
    assert dynatrace.accepted[0].stored == {
        "a": "[1]", "b": '{"c": 2}', "timestamp": 0, "event.type": "Unknown", "event.provider": "Unknown",
    }  # fmt: skip


def test_old_events_vanish_and_future_ones_move(dynatrace: BizeventsServer) -> None:
    """Both are answered with 202, without a message."""
    dynatrace.silent_drop = True
    now = time.time()
    at = [datetime.fromtimestamp(now + ahead, UTC).isoformat() for ahead in (-90_000, -80_000, 500, 5_000)]
    assert send(dynatrace, [{"event.id": str(n), "timestamp": text} for n, text in enumerate(at)])[0] == 202
    assert [event.id for event in dynatrace.dropped] == ["0"]
    assert dynatrace.ids == ["1", "2", "3"]
    assert dynatrace.accepted[1].stored["timestamp"] == at[2]
    assert dynatrace.accepted[2].stored["timestamp"] < (time.time() + 601) * 1000
