"""The bizevents sink's tokens, certificates and proxies with the stand-in for Dynatrace, and what it never shows."""

import asyncio
import logging
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sinks.base import Misconfigured, Unavailable
from sinks.shared.http import HttpClient
from sinks.shared.redaction import Redactor
from tests.servers.bizevents import CLIENT_SECRET, BizeventsServer, Fault
from tests.sinks.drivers import opened
from tests.sinks.drivers.bizevents import TOKEN, bizevents_sink, oauth, small
from tests.support.certificates import Authority
from tests.support.clock import FakeClock
from tests.support.fakes import Rig

PLATFORM = "/platform/classic/environment-api"
SECRETS = ("SECRETAPITOKEN", "SECRETOFCLIENT", "STANDINBEARER")


async def test_a_platform_url_works_with_oauth(dynatrace: BizeventsServer) -> None:
    """The form has the documented fields, `resource` included. One token serves many requests."""
    async with opened(bizevents_sink(dynatrace.url + PLATFORM, oauth(dynatrace, resource="urn:dtaccount:1"))) as sink:
        for _ in range(3):
            await sink.write(small())
    assert len(dynatrace.tokens_given) == 1
    assert {request.authorization for request in dynatrace.requests} == {"Bearer STANDINBEARER0"}


async def test_a_token_is_refreshed_once_for_all(dynatrace: BizeventsServer) -> None:
    """If all tokens expire, twenty concurrent writes request one new token, and each write succeeds."""
    async with opened(bizevents_sink(dynatrace.url + PLATFORM, oauth(dynatrace))) as sink:
        dynatrace.end_tokens()
        await asyncio.gather(*(sink.write(small()) for _ in range(20)))
    assert len(dynatrace.tokens_given) == 2
    assert len(dynatrace.accepted) == 60


async def test_a_token_is_refreshed_before_it_expires(dynatrace: BizeventsServer) -> None:
    """After 240 of its 300 seconds, so that it doesn't expire during a request; concurrent writes request only one."""
    clock = FakeClock()
    async with opened(bizevents_sink(dynatrace.url + PLATFORM, oauth(dynatrace), clock)) as sink:
        for clock.now, tokens in ((239.0, 1), (241.0, 2), (480.0, 2), (482.0, 3)):
            await asyncio.gather(*(sink.write(small()) for _ in range(5)))
            assert len(dynatrace.tokens_given) == tokens
    assert {request.status for request in dynatrace.sent} == {202}


async def test_a_401_with_a_fresh_token_is_misconfigured(dynatrace: BizeventsServer) -> None:
    """Another token would not help: the client lacks a right."""
    async with opened(bizevents_sink(dynatrace.url + PLATFORM, oauth(dynatrace))) as sink:
        dynatrace.life = -1.0
        dynatrace.end_tokens()
        with pytest.raises(Misconfigured, match=r"HTTP 401: Token \*\*\* is expired"):
            await sink.write(small())
        assert len(dynatrace.tokens_given) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"client_secret": "dt0s02.STANDIN.SECRETOFCLIENTx"},
            r"HTTP 401: no client dt0s02.STANDIN \*\*\*; check client_id",
        ),
        ({"scope": "storage:events:read"}, "HTTP 400: invalid_scope; check client_id"),
    ],
)
async def test_a_client_that_gets_no_token_is_misconfigured(
    dynatrace: BizeventsServer, change: dict[str, str], said: str
) -> None:
    """With the OAuth server's message, but without the secret."""
    with pytest.raises(Misconfigured, match=said):
        await opened(bizevents_sink(dynatrace.url + PLATFORM, oauth(dynatrace, **change))).__aenter__()


async def test_an_oauth_server_that_is_down_makes_it_unavailable(dynatrace: BizeventsServer) -> None:
    """Its 503 and its Retry-After count as the sink's. No outcome is unknown, since nothing was sent."""
    sink = bizevents_sink(dynatrace.url + PLATFORM, oauth(dynatrace))
    dynatrace.token_faults += [Fault(503, {"Retry-After": "4"}), Fault(500)]
    for least in (4.0, 0.0):
        with pytest.raises(Unavailable) as raised:
            await sink.open(None)
        assert (type(raised.value), raised.value.retry_after) == (Unavailable, least)
    await sink.open(None)
    await sink.close()


async def test_secrets_are_in_no_log_and_no_error(dynatrace: BizeventsServer, caplog: pytest.LogCaptureFixture) -> None:
    """Even if Dynatrace repeats them, and at log level DEBUG."""
    caplog.set_level(logging.DEBUG)
    secret = f"STANDINBEARER0 {CLIENT_SECRET}"
    sink = bizevents_sink(dynatrace.url + PLATFORM, oauth(dynatrace))
    dynatrace.faults += [Fault(status, body=secret) for status in (400, 403, 429, 500, 302, 401)]
    with capture_logs() as logs:
        async with Rig(sink, max_records=1) as rig:
            await rig.post(3)
            await rig.saved(2)
        shown = f"{logs}{caplog.text}{rig.delivery.status}{[letter.reason for letter in rig.dead_letters]}"
    assert "***" in shown
    assert not any(secret in shown for secret in SECRETS)


async def test_a_custom_ca_is_trusted_and_another_is_not(tmp_path: Path) -> None:
    """An ActiveGate's own certificate needs `ca`. Without it, the sink is misconfigured."""
    authority = Authority(tmp_path / "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, authority.sign("server")))
    with BizeventsServer(tls=context) as dynatrace:
        async with opened(bizevents_sink(dynatrace.url + "/e/env", {**TOKEN, "ca": str(authority.certificate)})):
            pass
        with pytest.raises(Misconfigured, match=r"not trusted.*`ca`"):
            await opened(bizevents_sink(dynatrace.url + "/e/env")).__aenter__()
        with pytest.raises(Misconfigured, match="can't load trusted certificates from"):
            await opened(bizevents_sink(dynatrace.url + "/e/env", {**TOKEN, "ca": str(tmp_path / "none.pem")})).__aenter__()


async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers CONNECT like a proxy that requires a password, and connects to the requested port of this machine."""

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(2**16):
                sink.write(data)
                await sink.drain()
        sink.close()

    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert head.startswith("CONNECT ")
    if "Proxy-Authorization: Basic dXNlcjp3b3Jk" not in head:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        return
    port = int(head.split()[1].rpartition(":")[2])
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))


async def test_https_goes_through_a_tunnel_of_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy gets its password, which Dynatrace never sees. Without it, the sink is misconfigured."""
    authority = Authority(tmp_path / "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, authority.sign("server")))
    proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    where = f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with BizeventsServer(tls=context) as server:
        server.silent_drop = False
        settings = {**TOKEN, "ca": str(authority.certificate)}
        monkeypatch.setenv("https_proxy", f"http://user:word@{where}")
        async with opened(bizevents_sink(server.url + "/e/env", settings)) as sink:
            await sink.write(small())
        assert (len(server.accepted), server.sent[0].proxy_authorization) == (3, "")
        monkeypatch.setenv("https_proxy", f"http://user:wrong@{where}")
        with pytest.raises(Misconfigured, match=r"^the proxy answers with HTTP 407$"):
            await opened(bizevents_sink(server.url + "/e/env", settings)).__aenter__()
    proxy.close()


@pytest.mark.parametrize(
    "proxy", ["http://u:PLANTED@127.0.0.1:99999", "http://[::1", "u:PLANTED@127.0.0.1:9", "socks5://h:1"]
)
async def test_a_proxy_url_that_is_none_is_a_mistake_not_a_bug(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the environment, and shows nothing of the URL."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    client = HttpClient(1.0, None, Redactor())
    client.open()
    with pytest.raises(Misconfigured, match=r"^invalid URL: check the configured one, and the proxy's in the environment$"):
        await client.post("http://192.0.2.1/", b"", {})
    await client.close()


async def test_the_proxy_of_the_environment_is_used(dynatrace: BizeventsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests for a host that doesn't exist arrive at the proxy, with its credentials. NO_PROXY is obeyed."""
    monkeypatch.setenv("http_proxy", f"http://user:word@127.0.0.1:{dynatrace.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    sink = bizevents_sink("http://environment.invalid")
    await sink.open(None)
    await sink.write(small())
    await sink.close()
    assert dynatrace.ids == ["post-0", "post-1", "post-2"]
    assert dynatrace.sent[0].proxy_authorization == "Basic dXNlcjp3b3Jk"
    monkeypatch.setenv("no_proxy", "environment.invalid")
    sink = bizevents_sink("http://environment.invalid")
    with pytest.raises(Unavailable, match="can't connect"):
        await sink.open(None)
    await sink.close()
