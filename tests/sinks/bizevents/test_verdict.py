"""What the bizevents sink makes of each reply, and of no reply: a row for every known case."""

import json
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, SinkError, Unavailable, WriteResult
from sinks.bizevents import verdict
from sinks.shared.http import Reply, request_error
from sinks.shared.oauth import parse_token

IDS = ["post-0", "post-1", "post-2"]
RECEIVED = 1_800_000_000.0


def reply(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply[bytes]:
    """A reply that was received at RECEIVED, which is 2027-01-15T08:00:00Z."""
    return Reply(status, headers or {}, body, RECEIVED)


def errors(*items: dict[str, Any]) -> bytes:
    return json.dumps({"errors": list(items)}).encode()


def error(message: str, **more: Any) -> bytes:
    return json.dumps({"error": {"code": 400, "message": message, **more}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "refused"),
    [
        (202, b"", {}),
        (202, b"accepted", {}),
        (202, b'{"errors": []}', {}),
        (202, b'{"errors": null}', {}),
        (202, errors({"id": "post-1", "index": 1, "message": "too odd", "source": "s"}), {1: "too odd"}),
        (400, errors({"id": "post-1", "index": 1, "message": "too odd", "source": "s"}), {1: "too odd"}),
        (400, errors({"index": 0, "message": "a"}, {"index": 2, "message": "b"}), {0: "a", 2: "b"}),
        (400, errors({"index": 0, "message": "a"}, {"index": 0, "message": "b"}), {0: "a; b"}),
        (400, errors(*({"index": index, "message": "no"} for index in range(3))), dict.fromkeys(range(3), "no")),
        (400, errors({"id": "post-2", "message": "by its id"}), {2: "by its id"}),
        (400, errors({"id": "post-2", "index": 7, "message": "by its id"}), {2: "by its id"}),
        (400, errors({"index": 1}), {1: "refused without a message"}),
        (400, errors({"index": 1, "message": "a\n  b" + "x" * 1000}), {1: "a b" + "x" * 297}),
    ],
)
def test_what_was_taken_and_what_was_not(status: int, body: bytes, refused: dict[int, str]) -> None:
    """Records that the reply doesn't list were delivered, and are not sent again. Those that it lists have its message."""
    assert verdict(reply(status, body), IDS) == WriteResult(refused=refused)


@pytest.mark.parametrize("item", [{"message": "who?"}, {"index": 3}, {"index": -1}, {"index": True}, {"id": "x"}, 5, None])
def test_an_error_that_names_no_record_refuses_all_that_it_may_mean(item: Any) -> None:
    """Part of the batch was taken, so it can't be sent again. Every record that may be missing is kept."""
    found = verdict(reply(400, errors({"index": 0, "message": "mine"}, item)), IDS)
    assert found.refused[0] == "mine"
    assert sorted(found.refused) == [0, 1, 2]
    assert "may be stored" in found.refused[1]
    assert list(found.retry) == []


def test_an_empty_list_of_errors_with_400_is_not_a_success() -> None:
    """Some records were refused, and the reply doesn't say which."""
    assert sorted(verdict(reply(400, b'{"errors": []}'), IDS).refused) == [0, 1, 2]


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (400, error("Constraints violated."), BatchRefused, "HTTP 400: Constraints violated."),
        (400, error("No", constraintViolations=[{"path": "a", "message": "b"}, 1]), BatchRefused, "HTTP 400: No; a: b"),
        (400, b"<html>Bad Request</html>", BatchRefused, "HTTP 400: Bad Request"),
        (400, b"", BatchRefused, "HTTP 400"),
        (400, b"[1]", BatchRefused, "HTTP 400: [1]"),
        (413, b"", BatchRefused, "HTTP 413"),
        (
            401,
            error("Token Authentication failed"),
            Misconfigured,
            "HTTP 401: Token Authentication failed; check that the token is right",
        ),
        (403, error("Token is missing required scope"), Misconfigured, "bizevents.ingest"),
        (404, b"", Misconfigured, "/e/ENV"),
        (407, b"", Misconfigured, "proxy"),
        (405, b"", Misconfigured, "check that `url` is"),
        (415, b"", Misconfigured, "check that `url` is"),
        (302, b"", Misconfigured, "check that `url` is"),
        (200, b"<html>log in</html>", Misconfigured, "check that `url` is"),
        (204, b"", Misconfigured, "check that `url` is"),
        (429, error("Too many"), Unavailable, "HTTP 429: Too many"),
        (503, b"", Unavailable, "HTTP 503"),
        (408, b"", OutcomeUnknown, "HTTP 408"),
        (500, b"", OutcomeUnknown, "HTTP 500"),
        (502, b"<html>Bad\nGateway</html>", OutcomeUnknown, "HTTP 502: Bad Gateway"),
        (504, b"", OutcomeUnknown, "HTTP 504"),
        (599, b"\xff", OutcomeUnknown, "HTTP 599"),
    ],
)
def test_each_status_is_one_kind_of_error(status: int, body: bytes, kind: type[SinkError], said: str) -> None:
    """With Dynatrace's message, and a hint if a person has to act."""
    with pytest.raises(SinkError) as raised:
        verdict(reply(status, body), IDS)
    assert type(raised.value) is kind
    assert said in str(raised.value)


@pytest.mark.parametrize("status", [429, 503, 500])
def test_retry_after_comes_with_the_error(status: int) -> None:
    """The loop waits for at least that long."""
    with pytest.raises(Unavailable) as raised:
        verdict(reply(status, b"", {"Retry-After": "17"}), IDS)
    assert raised.value.retry_after == 17


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": " 0.5 "}, 0.5),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT", "Date": "Wed, 21 Oct 2026 07:26:30 GMT"}, 90.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT", "Date": "Wed, 21 Oct 2026 07:29:00 GMT"}, 0.0),
        ({"Retry-After": "Fri, 15 Jan 2027 08:01:15 GMT"}, 75.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 86_400.0),
        ({"Retry-After": "9" * 400}, 86_400.0),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "soon"}, 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float) -> None:
    """A date is compared with the server's clock if it shows one. Anything else is ignored, and a day is the maximum."""
    assert reply(200, b"", headers).retry_after == seconds


KEY = ConnectionKey("host", 443, True, True, None, None, None)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (aiohttp.ClientConnectorError(KEY, OSError(111, "refused")), Unavailable, "can't connect"),
        (aiohttp.ClientProxyConnectionError(KEY, OSError(111, "refused")), Unavailable, "can't connect"),
        (aiohttp.ConnectionTimeoutError("slow"), Unavailable, "can't connect"),
        (aiohttp.ClientConnectorSSLError(KEY, OSError(1, "alert")), Unavailable, "can't connect"),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLError("self-signed")), Misconfigured, "`ca`"),
        (aiohttp.InvalidURL("x"), Misconfigured, "invalid URL"),
        (TimeoutError(), OutcomeUnknown, "no reply in time"),
        (aiohttp.SocketTimeoutError("slow"), OutcomeUnknown, "no reply in time"),
        (aiohttp.ServerDisconnectedError(), OutcomeUnknown, "before the reply"),
        (aiohttp.ClientOSError(104, "reset"), OutcomeUnknown, "before the reply"),
        (aiohttp.ClientPayloadError("short"), OutcomeUnknown, "before the reply"),
    ],
)
def test_a_request_without_a_reply_may_have_arrived(error: Exception, kind: type[SinkError], said: str) -> None:
    """Its outcome is unknown once there was a connection."""
    found = request_error(error)
    assert type(found) is kind
    assert said in str(found)


@pytest.mark.parametrize(("status", "kind"), [(407, Misconfigured), (502, Unavailable)])
def test_a_proxy_that_refuses_says_only_its_status(status: int, kind: type[SinkError]) -> None:
    """aiohttp's own message may contain its URL, with a password."""
    error = aiohttp.ClientHttpProxyError(None, (), status=status, message="http://user:secret@proxy")  # type: ignore[arg-type]
    found = request_error(error)
    assert type(found) is kind
    assert str(found) == f"the proxy answers with HTTP {status}"


@pytest.mark.parametrize(
    ("answer", "life"),
    [
        ({"access_token": "t", "expires_in": 300}, 300.0),
        ({"access_token": "t", "expires_in": "300"}, 300.0),
        ({"access_token": "t"}, 60.0),
        ({"access_token": "t", "expires_in": 0}, 60.0),
        ({"access_token": "t", "expires_in": 1e300}, 60.0),
    ],
)
def test_a_token_says_how_long_it_lives(answer: dict[str, Any], life: float) -> None:
    """A minute if that makes no sense."""
    assert parse_token(reply(200, json.dumps(answer).encode())) == ("t", life)


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (400, b'{"error": "invalid_scope", "error_description": "no such scope"}', Misconfigured, "no such scope"),
        (401, b'{"error": "invalid_client"}', Misconfigured, "invalid_client"),
        (403, b"", Misconfigured, "HTTP 403"),
        (404, b"", Misconfigured, "HTTP 404"),
        (200, b"<html>", Misconfigured, "contains none"),
        (200, b"{}", Misconfigured, "contains none"),
        (200, b"[]", Misconfigured, "contains none"),
        (200, b'{"access_token": 5}', Misconfigured, "contains none"),
        (200, b'{"access_token": ""}', Misconfigured, "contains none"),
        (200, b'{"access_token": "a\\r\\nX: y"}', Misconfigured, "contains none"),
        (200, b'{"access_token": "t", "expires_in": "soon"}', Misconfigured, "contains none"),
        (429, b"", Unavailable, "HTTP 429"),
        (500, b"", Unavailable, "HTTP 500"),
        (503, b"", Unavailable, "HTTP 503"),
    ],
)
def test_without_a_token_nothing_was_sent(status: int, body: bytes, kind: type[SinkError], said: str) -> None:
    """So the outcome is never unknown: the batch is written later, or a person has to act."""
    with pytest.raises(SinkError) as raised:
        parse_token(reply(status, body, {"Retry-After": "3"}))
    assert type(raised.value) is kind
    assert said in str(raised.value)
    assert getattr(raised.value, "retry_after", 3.0) == 3.0
