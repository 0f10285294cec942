"""The Elasticsearch sink with secured servers: credentials, privileges, certificates, and no secret in any message."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from sinks.base import Misconfigured, Unavailable
from tests.servers.elasticsearch import EIGHT, NINE, PASSWORD, USER, Elasticsearch
from tests.sinks.drivers import opened
from tests.sinks.drivers.elasticsearch import BASIC, Place, elasticsearch_sink
from tests.support.fakes import mapped
from tests.support.ports import free_port

TEMPLATES = "manage_index_templates"
ALL = ("create_doc", "auto_configure")


@pytest.fixture(params=[NINE, EIGHT])
def secured(request: pytest.FixtureRequest, elasticsearch: Callable[..., Elasticsearch]) -> Iterator[Place]:
    """On a server of each version, with TLS and users."""
    found = Place(elasticsearch(request.param, secured=True))
    yield found
    found.close()


async def test_a_user_with_a_password_does(secured: Place) -> None:
    """Each record is there once."""
    batch = mapped(40)
    async with opened(secured.sink(auth=BASIC)) as sink:
        assert (await sink.write(batch)).flagged == {}
        assert (await sink.write(batch)).flagged == {"duplicate": 40}
    assert sorted(secured.records()) == sorted(batch.bodies)


async def test_an_api_key_with_the_documented_rights_does(secured: Place) -> None:
    """It needs no more than the docs say, and logs no warning."""
    key = secured.server.api_key(secured.pattern, *ALL, cluster=[TEMPLATES])
    with capture_logs() as logs:
        async with opened(secured.sink(auth={"api_key": key})) as sink:
            await sink.check()
            assert not (await sink.write(mapped(10))).retry
    assert [line["event"] for line in logs if line["log_level"] != "debug"] == ["index template installed"]
    assert len(secured.records()) == 10


async def test_a_bearer_token_does(secured: Place) -> None:
    """A service account's token: that of Fleet Server may write to such a data stream."""
    path = f"/_security/service/elastic/fleet-server/credential/token/{secured.prefix}"
    token = secured.server.must("POST", path)["token"]["value"]
    secured.settings["index"] = f"logs-{secured.prefix}-{{category}}"
    async with opened(secured.sink(auth={"bearer": token}, manage_template=False)) as sink:
        assert not (await sink.write(mapped(10))).retry
    assert secured.server.must("GET", f"/logs-{secured.prefix}-*/_search?size=0")["hits"]["total"]["value"] >= 0
    assert len(secured.server.documents(f"logs-{secured.prefix}-*")) == 10


@pytest.mark.parametrize(
    ("privileges", "warned"),
    [(ALL, [TEMPLATES]), (("create_doc",), [TEMPLATES, "auto_configure"])],
)
async def test_a_missing_optional_privilege_is_a_warning(
    secured: Place, privileges: tuple[str, ...], warned: list[str]
) -> None:
    """It is named, once; check warns too, and installs nothing."""
    key = secured.server.api_key(secured.pattern, *privileges)
    with capture_logs() as logs:
        async with opened(secured.sink(auth={"api_key": key})) as sink:
            await sink.open(None)
            await sink.check()
    assert [(line["log_level"], line["event"], line["privilege"]) for line in logs] == [
        ("warning", "privilege missing", privilege) for privilege in warned
    ]
    assert secured.server.ask("GET", f"/_index_template/btfeed-{secured.prefix}*")[1]["index_templates"] == []


async def test_without_the_privilege_to_write_it_is_misconfigured(secured: Place) -> None:
    """open and check name the privilege. If it is withdrawn later, a write names it and refuses no record."""
    sink = secured.sink(auth={"api_key": secured.server.api_key(secured.pattern, "read")})
    for attempt in (sink.open(None), sink.check()):
        with pytest.raises(Misconfigured, match=rf"index privilege create_doc on {secured.prefix}-\*-\*"):
            await attempt
    with pytest.raises(Misconfigured, match=r"security_exception.*unauthorized"):
        await sink.write(mapped(5))
    await sink.close()


@pytest.mark.parametrize(
    "auth",
    [
        {"basic": {"username": USER, "password": "SECRETWRONG"}},
        {"basic": {"username": "nobody", "password": PASSWORD}},
        {"api_key": "U0VDUkVUaWQ6U0VDUkVUa2V5"},
        {"bearer": "SECRETBEARER"},
        None,
    ],
)
async def test_wrong_credentials_are_misconfigured(secured: Place, auth: object) -> None:
    """check says so, and so does a write if they are changed later. No message contains a secret."""
    sink = secured.sink(auth=auth)
    for attempt in (sink.check(), sink.write(mapped(3))):
        with pytest.raises(Misconfigured, match=r"HTTP 401.*check that the credentials in `auth` are right") as raised:
            await attempt
        assert "SECRET" not in str(raised.value)
        assert "U0VD" not in str(raised.value)
    await sink.close()


async def test_certificates_are_checked(secured: Place) -> None:
    """Without the authority's, the connection fails. An unusable file has another message."""
    sink = secured.sink(ca=None)
    with pytest.raises(Misconfigured, match=r"certificate is not trusted.*`ca`"):
        await sink.check()
    with pytest.raises(Misconfigured, match="certificate is not trusted"):
        await sink.write(mapped(3))
    await sink.close()
    with pytest.raises(Misconfigured, match="can't load trusted certificates"):
        await secured.sink(ca="/dev/null/none").check()


async def test_a_wrong_scheme_is_recognized(secured: Place, place: Place) -> None:
    """http for a server that speaks https, and vice versa."""
    plain = secured.sink(hosts=[secured.server.url.replace("https", "http")])
    with pytest.raises(Unavailable, match="does it need https"):
        await plain.check()
    await plain.close()
    encrypted = place.sink(hosts=[place.server.url.replace("http", "https")])
    with pytest.raises(Unavailable, match="does it speak https"):
        await encrypted.check()
    await encrypted.close()


@asynccontextmanager
async def answering(status: int, body: str, content_type: str) -> AsyncIterator[str]:
    """The URL of a server that gives this answer to every request."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, text=body, content_type=content_type)

    app = web.Application(client_max_size=2**25)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "content_type", "error", "said"),
    [
        (200, "{}", "application/json", Misconfigured, "is not Elasticsearch"),
        (200, "<html>welcome</html>", "text/html", Misconfigured, "is not Elasticsearch"),
        (404, "<html>no</html>", "text/html", Misconfigured, "unexpected answer"),
        (404, "404: Not Found", "text/plain", Misconfigured, "^HTTP 404: Not Found; "),
        (405, "no", "text/plain", Misconfigured, "unexpected answer"),
        (501, "no", "text/plain", Misconfigured, "unexpected answer"),
        (503, "busy", "text/plain", Unavailable, "HTTP 503: busy"),
        (502, "bad", "application/octet-stream", Unavailable, "HTTP 502: bad"),
        (500, "{", "application/json", Unavailable, "HTTP 500: {"),
    ],
)
async def test_another_server_at_the_address_is_recognized(
    status: int, body: str, content_type: str, error: type[Exception], said: str
) -> None:
    """Whatever it answers, check and write say what is wrong, and nothing is treated as a bug."""
    async with answering(status, body, content_type) as url:
        sink = elasticsearch_sink(url)
        for attempt in (sink.check(), sink.write(mapped(3))):
            with pytest.raises(error, match=said):
                await attempt
        await sink.close()


async def test_an_address_without_a_server_is_unavailable() -> None:
    """A port where nothing listens, and an unknown host."""
    for host in (f"127.0.0.1:{free_port()}", "no.such.host.invalid:9200"):
        sink = elasticsearch_sink(f"http://{host}")
        with pytest.raises(Unavailable, match=f"can't connect.*{host}"):
            await asyncio.wait_for(sink.check(), 30)
        await sink.close()


async def test_a_repeated_secret_is_removed() -> None:
    """A proxy in between may repeat the credentials."""
    for auth, secret in (
        ({"api_key": "SECRETKEY"}, "SECRETKEY"),
        ({"bearer": "SECRETTOKEN"}, "SECRETTOKEN"),
        (BASIC, PASSWORD),
    ):
        async with answering(401, f"you said {secret}", "text/plain") as url:
            sink = elasticsearch_sink(url, auth=auth)
            with pytest.raises(Misconfigured) as raised:
                await sink.check()
            await sink.close()
            assert "you said ***" in str(raised.value)
            assert secret not in repr(sink._settings)
