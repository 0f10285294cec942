"""The Elasticsearch sink at servers with security: credentials, rights, certificates, and that no secret is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from sinks.base import Misconfigured, Unavailable
from tests.servers.elasticsearch import EIGHT, NINE, PASSWORD, USER, Elasticsearch, free_port
from tests.sinks.drivers import opened
from tests.sinks.drivers.elasticsearch import BASIC, Place, elasticsearch_sink
from tests.support.fakes import mapped

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
    """No more than the page says; no warning."""
    key = secured.server.api_key(secured.pattern, *ALL, cluster=[TEMPLATES])
    with capture_logs() as logs:
        async with opened(secured.sink(auth={"api_key": key})) as sink:
            await sink.check()
            assert not (await sink.write(mapped(10))).retry
    assert [line["event"] for line in logs] == ["index template installed"]
    assert len(secured.records()) == 10


async def test_a_bearer_token_does(secured: Place) -> None:
    """A service account's: the one that there is for agents may write to such a data stream."""
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
async def test_a_missing_privilege_that_one_can_do_without_is_a_warning(
    secured: Place, privileges: tuple[str, ...], warned: list[str]
) -> None:
    """Which names it, once; check says it too, and installs nothing."""
    key = secured.server.api_key(secured.pattern, *privileges)
    with capture_logs() as logs:
        async with opened(secured.sink(auth={"api_key": key})) as sink:
            await sink.open(None)
            await sink.check()
    assert [(line["log_level"], line["event"], line["privilege"]) for line in logs] == [
        ("warning", "a privilege is missing", privilege) for privilege in warned
    ]
    assert secured.server.ask("GET", f"/_index_template/btfeed-{secured.prefix}*")[1]["index_templates"] == []


async def test_without_the_right_to_write_it_needs_a_person(secured: Place) -> None:
    """open and check name the privilege; taken away later, a write names it and nothing is refused."""
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
async def test_wrong_credentials_need_a_person(secured: Place, auth: object) -> None:
    """check says so, and a write does where they were right once; no secret is in what is said."""
    sink = secured.sink(auth=auth)
    for attempt in (sink.check(), sink.write(mapped(3))):
        with pytest.raises(Misconfigured, match=r"HTTP 401.*are the credentials in `auth` right") as raised:
            await attempt
        assert "SECRET" not in str(raised.value)
        assert "U0VD" not in str(raised.value)
    await sink.close()


async def test_certificates_are_checked(secured: Place) -> None:
    """Without the authority's there is no connection; a file that is none is told apart."""
    sink = secured.sink(ca=None)
    with pytest.raises(Misconfigured, match=r"certificate is not trusted.*`ca`"):
        await sink.check()
    with pytest.raises(Misconfigured, match="certificate is not trusted"):
        await sink.write(mapped(3))
    await sink.close()
    with pytest.raises(Misconfigured, match="can't take certificates"):
        await secured.sink(ca="/dev/null/none").check()


async def test_the_wrong_scheme_is_told(secured: Place, place: Place) -> None:
    """http where https is spoken, and the other way round."""
    plain = secured.sink(hosts=[secured.server.url.replace("https", "http")])
    with pytest.raises(Unavailable, match="does it want https"):
        await plain.check()
    await plain.close()
    encrypted = place.sink(hosts=[place.server.url.replace("http", "https")])
    with pytest.raises(Unavailable, match="does it speak https"):
        await encrypted.check()
    await encrypted.close()


@asynccontextmanager
async def somebody(status: int, body: str, content_type: str) -> AsyncIterator[str]:
    """The url of a server that answers everything so."""

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
        (200, "{}", "application/json", Misconfigured, "not Elasticsearch"),
        (200, "<html>welcome</html>", "text/html", Misconfigured, "not Elasticsearch"),
        (404, "<html>no</html>", "text/html", Misconfigured, "not how Elasticsearch answers"),
        (405, "no", "text/plain", Misconfigured, "not how Elasticsearch answers"),
        (501, "no", "text/plain", Misconfigured, "not how Elasticsearch answers"),
        (503, "busy", "text/plain", Unavailable, "HTTP 503: busy"),
        (502, "bad", "application/octet-stream", Unavailable, "no JSON"),
        (500, "{", "application/json", Unavailable, "no JSON"),
    ],
)
async def test_somebody_else_at_the_address_is_told(
    status: int, body: str, content_type: str, error: type[Exception], said: str
) -> None:
    """Whatever it answers, check and write say what is wrong, and none of it is a bug."""
    async with somebody(status, body, content_type) as url:
        sink = elasticsearch_sink(url)
        for attempt in (sink.check(), sink.write(mapped(3))):
            with pytest.raises(error, match=said):
                await attempt
        await sink.close()


async def test_nobody_at_the_address_is_told() -> None:
    """A port where nobody listens, a name that there is not."""
    for host in (f"127.0.0.1:{free_port()}", "no.such.host.invalid:9200"):
        sink = elasticsearch_sink(f"http://{host}")
        with pytest.raises(Unavailable, match=f"no connection.*{host}"):
            await asyncio.wait_for(sink.check(), 30)
        await sink.close()


async def test_what_a_server_repeats_of_a_secret_is_struck_out() -> None:
    """Whatever stands between may tell what it got."""
    for auth, secret in (
        ({"api_key": "SECRETKEY"}, "SECRETKEY"),
        ({"bearer": "SECRETTOKEN"}, "SECRETTOKEN"),
        (BASIC, PASSWORD),
    ):
        async with somebody(401, f"you said {secret}", "text/plain") as url:
            sink = elasticsearch_sink(url, auth=auth)
            with pytest.raises(Misconfigured) as raised:
                await sink.check()
            await sink.close()
            assert "you said ***" in str(raised.value)
            assert secret not in repr(sink._settings)
