"""The bizevents sink with the stand-in for Dynatrace: its settings, its requests, and what becomes of them."""

import json
from typing import Any

import msgspec
import pytest

from btfeed import config
from btfeed.faults import ConfigError
from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, Unavailable, WriteResult
from sinks.batch import Batch
from sinks.bizevents import MAX_REQUEST_SIZE, BizeventsSettings, cloud_events, ingest_url, json_array
from tests.servers.bizevents import API_TOKEN, CLIENT_ID, CLIENT_SECRET, BizeventsServer, Fault
from tests.sinks.drivers import opened
from tests.sinks.drivers.bizevents import TOKEN, bizevents_sink, small
from tests.support.fakes import Rig, batch_of, mapped

PLATFORM = "/platform/classic/environment-api"
SECRETS = ("SECRETAPITOKEN", "SECRETOFCLIENT", "STANDINBEARER")


def settings(url: str, **more: object) -> BizeventsSettings:
    found: BizeventsSettings = BizeventsSettings.model_validate({"url": url, **(more or TOKEN)})
    return found


CLIENT = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}


# Settings


@pytest.mark.parametrize(
    ("url", "credentials", "target"),
    [
        ("https://abc.live.dynatrace.com", TOKEN, "https://abc.live.dynatrace.com/api/v2/bizevents/ingest"),
        ("https://abc.live.dynatrace.com/", {"oauth": CLIENT}, "https://abc.live.dynatrace.com/api/v2/bizevents/ingest"),
        ("https://ag:9999/e/abc", TOKEN, "https://ag:9999/e/abc/api/v2/bizevents/ingest"),
        (
            "https://abc.apps.dynatrace.com",
            {"oauth": CLIENT},
            f"https://abc.apps.dynatrace.com{PLATFORM}/v2/bizevents/ingest",
        ),
        (
            f"https://abc.apps.dynatrace.com{PLATFORM}/",
            {"oauth": CLIENT},
            f"https://abc.apps.dynatrace.com{PLATFORM}/v2/bizevents/ingest",
        ),
        (f"https://other.example{PLATFORM}", {"oauth": CLIENT}, f"https://other.example{PLATFORM}/v2/bizevents/ingest"),
    ],
)
def test_the_sink_adds_the_path(url: str, credentials: dict[str, Any], target: str) -> None:
    """To the base URL of a SaaS environment, of an ActiveGate, and of the platform."""
    assert ingest_url(settings(url, **credentials)) == target


@pytest.mark.parametrize(
    ("url", "credentials", "hint"),
    [
        ("https://abc.apps.dynatrace.com", TOKEN, "use oauth, or the URL https://ENV.live.dynatrace.com"),
        (f"https://other.example{PLATFORM}", TOKEN, "use oauth"),
        ("http://abc.live.dynatrace.com", TOKEN, "write https://abc.live.dynatrace.com"),
        ("https://abc.live.dynatrace.com", {"api_token": "dt0s02.A.SECRETAPITOKEN"}, "an API token starts with dt0c01"),
        (
            "https://abc.live.dynatrace.com",
            {"oauth": {"client_id": "c", "client_secret": API_TOKEN}},
            "write it as api_token",
        ),
    ],
)
async def test_what_does_not_go_together_is_refused_with_a_hint(url: str, credentials: dict[str, Any], hint: str) -> None:
    """By check and by open, before anything is sent, and without secrets."""
    for method in ("check", "open"):
        sink = bizevents_sink(url, credentials)
        with pytest.raises(Misconfigured, match=hint) as raised:
            await (sink.check() if method == "check" else sink.open(None))
        await sink.close()
        assert not any(secret in str(raised.value) for secret in SECRETS)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (TOKEN, "sinks.biz.url: is required"),
        ({"url": "https://x"}, "sinks.biz: set either api_token or oauth"),
        ({"url": "https://x", "api_token": "SECRETAPITOKEN", "oauth": CLIENT}, "sinks.biz: set either"),
        ({"url": "https://x", "oauth": {"client_id": "c"}}, "sinks.biz.oauth.client_secret: is required"),
        (
            {"url": "https://x", "oauth": {**CLIENT, "token_url": "https://u:SECRETOFCLIENT@x"}},
            "sinks.biz.oauth.token_url: invalid URL: only",
        ),
        ({"url": "https://x", "api_token": "SECRETAPITOKEN\n"}, "sinks.biz.api_token: must consist of visible ASCII"),
        ({"url": "https://x", "api_token": ""}, "sinks.biz.api_token: must not be empty"),
        ({"url": "x.live.dynatrace.com", **TOKEN}, 'sinks.biz.url: invalid URL: start it with "https://"'),
        ({"url": "https://u:SECRETAPITOKEN@x", **TOKEN}, "sinks.biz.url: invalid URL: only scheme, host, port and path"),
        ({"url": "https://x?t=SECRETAPITOKEN", **TOKEN}, "sinks.biz.url: invalid URL: only scheme, host, port and path"),
        ({"url": "https://x:port", **TOKEN}, "sinks.biz.url: invalid URL: write it like"),
        ({"url": "https://x/api/v2/bizevents/ingest", **TOKEN}, "sinks.biz.url: write the environment's base"),
        (
            {"url": "https://x", **TOKEN, "on_unknown": "drop"},
            'sinks.biz.on_unknown: must be "retry"',
        ),
        ({"url": "https://x", **TOKEN, "linger": "1s"}, "sinks.biz.linger: unknown key"),
    ],
)
def test_a_wrong_table_is_refused(table: dict[str, Any], fault: str) -> None:
    """With the path of the fault, and without secrets."""
    with pytest.raises(ConfigError) as raised:
        config.parse({"sinks": {"biz": {"type": "bizevents"} | table}}, {})
    (found,) = raised.value.faults
    assert found.startswith(fault)
    assert not any(secret in found for secret in SECRETS)


def test_batches_are_what_dynatrace_takes_by_default() -> None:
    """400 records or 4.5 MiB, no older than 23 h 55 min, several in flight. [sinks.NAME.delivery] overrides it."""
    table = {"type": "bizevents", "url": "https://x", **TOKEN}
    delivery = config.parse({"sinks": {"biz": table}}, {}).sinks["biz"].common.delivery
    assert (delivery.max_records, delivery.max_bytes, delivery.max_age) == (400, 4_718_592, 86_100.0)
    assert delivery.in_flight > 1
    changed = config.parse({"sinks": {"biz": table | {"delivery": {"max_records": 7}}}}, {}).sinks["biz"].common.delivery
    assert (changed.max_records, changed.max_bytes) == (7, 4_718_592)


def test_secrets_are_not_in_the_settings_as_they_are_shown() -> None:
    """Neither the token nor the client's secret."""
    for shown in (settings("https://x"), settings("https://x", oauth=CLIENT)):
        assert not any(secret in f"{shown!r}{shown}" for secret in SECRETS)


# What is sent


def test_plain_json_is_made_of_the_records_own_bytes() -> None:
    """No record is decoded and encoded again, however the batch was sliced."""
    batch = mapped(30)
    body = json_array(Batch.concat([batch.slice(20, 30), batch.slice(0, 20)]))
    assert [bytes(raw) for raw in msgspec.json.decode(body, type=list[msgspec.Raw])] == [
        *batch.bodies[20:],
        *batch.bodies[:20],
    ]


def test_a_cloud_event_has_the_record_as_its_data() -> None:
    """With its id, provider, type and time. Required attributes are never empty."""
    batch = batch_of(
        [
            b'{"event.id":"post-0","event.type":"T\\"1","event.provider":"P","timestamp":"2026-01-31T12:00:00.000Z","x":[1]}',
            b'{"event.id":"post-1","event.type":"","event.provider":""}',
        ]
    )
    first, second = json.loads(cloud_events(batch))
    assert first == {
        "specversion": "1.0", "id": "post-0", "source": "P", "type": 'T"1', "time": "2026-01-31T12:00:00.000Z",
        "datacontenttype": "application/json", "data": json.loads(batch.body(0)),
    }  # fmt: skip
    assert (second["source"], second["type"], "time" in second) == ("appmon", "unknown", False)


async def test_content_type_and_credentials_are_those_documented(dynatrace: BizeventsServer) -> None:
    """A JSON array with an API token, or a batch of CloudEvents if configured."""
    async with opened(bizevents_sink(dynatrace.url)) as sink:
        await sink.write(small())
    async with opened(bizevents_sink(dynatrace.url, settings={**TOKEN, "cloud_events": True})) as sink:
        await sink.write(small())
    assert [request.content_type for request in dynatrace.sent] == [
        "application/json",
        "application/cloudevents-batch+json",
    ]
    assert {request.authorization for request in dynatrace.sent} == {f"Api-Token {API_TOKEN}"}


async def test_opening_tests_the_connection_without_an_event(dynatrace: BizeventsServer) -> None:
    """An empty array is answered with 400 or 202; both show that the sink works."""
    for dynatrace.takes_nothing in (False, True):
        async with opened(bizevents_sink(dynatrace.url)):
            pass
    assert [(request.status, request.ids) for request in dynatrace.requests] == [(400, []), (202, [])]


async def test_a_record_larger_than_a_request_is_a_dead_letter(dynatrace: BizeventsServer) -> None:
    """It is not even sent; one that just fits is. Its neighbors are left for the next write."""
    head, tail = b'{"event.id":"post-0","event.type":"', b'"}'
    fits = head + b"x" * (MAX_REQUEST_SIZE - 2 - len(head + tail)) + tail
    async with opened(bizevents_sink(dynatrace.url)) as sink:
        assert await sink.write(batch_of([fits])) == WriteResult(range(1, 1))
        found = await sink.write(batch_of([fits + b" ", b"{}"]))
        assert list(found.retry) == [1]
        assert found.refused[0].startswith("too large")
    assert len(dynatrace.sent) == 1


async def test_a_batch_larger_than_a_request_goes_in_several(dynatrace: BizeventsServer) -> None:
    """What was not sent is left for the next write."""
    batch = batch_of([b'{"event.id":"post-%d","x":"%s"}' % (n, b"x" * 2_000_000) for n in range(4)])
    async with opened(bizevents_sink(dynatrace.url)) as sink:
        assert list((await sink.write(batch)).retry) == [2, 3]
    assert dynatrace.ids == ["post-0", "post-1"]


async def test_records_of_the_far_future_are_counted(dynatrace: BizeventsServer) -> None:
    """If they are delivered and more than ten minutes ahead: Dynatrace changes their time."""
    batch = small()
    at = [0, 4_000_000_000_000, 4_000_000_000_000]
    dynatrace.refuse = lambda event: "no" if event["n"] == 2 else None
    async with opened(bizevents_sink(dynatrace.url)) as sink:
        found = await sink.write(Batch(batch.ids, batch.keys, at, batch.transactions, batch.sizes, batch.parts))
    assert (found.flagged, found.refused) == ({"far_future": 1}, {2: "no"})


# Verdicts


async def test_a_413_is_the_batch_s_fault(dynatrace: BizeventsServer) -> None:
    """The loop halves the batch."""
    dynatrace.faults.append(Fault(413))
    async with opened(bizevents_sink(dynatrace.url)) as sink:
        with pytest.raises(BatchRefused):
            await sink.write(small())


@pytest.mark.parametrize("on_unknown", ["retry", "dead-letter"])
@pytest.mark.parametrize(
    "fault", [Fault(500), Fault(502, commit=True), Fault(drop=True), Fault(drop=True, commit=True), Fault(delay=30)]
)
async def test_a_lost_reply_is_an_unknown_outcome(dynatrace: BizeventsServer, fault: Fault, on_unknown: str) -> None:
    """A 5xx, and a reply that is lost or late. The sink says whether to write the batch again."""
    dynatrace.faults.append(fault)
    quick = {"timeout": "1s"} if fault.delay else {}
    async with opened(bizevents_sink(dynatrace.url, settings={**TOKEN, "on_unknown": on_unknown, **quick})) as sink:
        with pytest.raises(OutcomeUnknown) as raised:
            await sink.write(small())
    assert raised.value.again == (on_unknown == "retry")


@pytest.mark.parametrize("on_unknown", ["retry", "dead-letter"])
async def test_the_loop_retries_or_keeps_what_has_an_unknown_outcome(dynatrace: BizeventsServer, on_unknown: str) -> None:
    """Both count the records. Retried ones are there twice; dead letters are there once, and nothing is sent again."""
    dynatrace.faults.append(Fault(drop=True, commit=True))
    sink = bizevents_sink(dynatrace.url, {**TOKEN, "on_unknown": on_unknown})
    async with Rig(sink) as rig:
        bodies = await rig.post(3)
        await rig.saved(2)
    assert rig.sample("sink_unknown_total") == 3
    letters = [letter.body for letter in rig.dead_letters]
    if on_unknown == "retry":
        assert sorted(event.raw for event in dynatrace.accepted) == sorted(bodies * 2)
        assert letters == []
    else:
        assert [event.raw for event in dynatrace.accepted] == letters == bodies
        assert rig.sample("dead_letters_total", reason="unknown") == 3


async def test_a_refused_connection_has_no_unknown_outcome() -> None:
    """The outcome of a refused connection is known."""
    with BizeventsServer() as gone:
        pass
    sink = bizevents_sink(gone.url)
    with pytest.raises(Unavailable) as raised:
        await sink.open(None)
    assert type(raised.value) is Unavailable
    await sink.close()


async def test_wrong_credentials_are_misconfigured_with_a_hint(dynatrace: BizeventsServer) -> None:
    """An unknown token, one without the scope, another path. The token is not shown, although the server repeats it."""
    sink = bizevents_sink(dynatrace.url, {"api_token": "dt0c01.OTHER.SECRETAPITOKEN"})
    with pytest.raises(Misconfigured, match=r"HTTP 401: Token Authentication failed for \*\*\*; check that"):
        await sink.open(None)
    await sink.close()
    dynatrace.scopes = set()
    with pytest.raises(Misconfigured, match=r"HTTP 403: Token \*\*\* is missing .*scope bizevents.ingest"):
        await opened(bizevents_sink(dynatrace.url)).__aenter__()
    with pytest.raises(Misconfigured, match=r"HTTP 404.*/e/ENV"):
        await opened(bizevents_sink(dynatrace.url + "/e/other")).__aenter__()
