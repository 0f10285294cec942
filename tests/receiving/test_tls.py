"""HTTPS, with certificates made for the tests, on asyncio's own event loop and on uvloop."""

import asyncio
import errno
import inspect
import os
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from structlog.testing import capture_logs

from btfeed.http import listener
from btfeed.receiving.settings import ReceiverSettings
from tests.support.certificates import Authority, openssl
from tests.support.harness import BTFEED, DEADLINE, Server
from tests.support.posts import sample_visit
from tests.support.rawhttp import Site, begin, request, site

BODY = sample_visit()
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run the test on asyncio's own event loop, and on uvloop."""

    def run(new_loop: Callable[[], asyncio.AbstractEventLoop], **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(cast("Coroutine[Any, Any, None]", test(**arguments)))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    parameters = [inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)]
    parameters += inspect.signature(test).parameters.values()
    run.__signature__ = inspect.Signature([p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters])  # type: ignore[attr-defined]  # read by pytest
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    parametrized: Callable[..., None] = pytest.mark.parametrize("new_loop", loops, ids=["asyncio", "uvloop"])(run)
    return parametrized


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as found:
        yield found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


def _tls(authority: Authority, **more: str) -> dict[str, Any]:
    certificate, key = authority.sign("server")
    return {"tls": {"certificate": str(certificate), "key": str(key)} | more}


def _set_deadlines(running: Site, tls: dict[str, Any], seconds: str) -> None:
    """Of headers, handshakes and bodies, from now on."""
    chosen = ReceiverSettings.model_validate(tls | {"header_timeout": seconds, "body_timeout": seconds})
    assert chosen.tls
    running.receiver.reconfigure(chosen, chosen.tls.context())


async def _ask(running: Site, context: ssl.SSLContext) -> int:
    async with running.connect(context) as client:
        await client.send(request(BODY))
        return (await client.response()).status


@on_both_loops
async def test_accepts_posts_over_tls(tmp_path: Path, authority: Authority) -> None:
    """A client that trusts the authority can post. One that does not gets no connection."""
    async with site(tmp_path, **_tls(authority)) as running:
        assert await _ask(running, authority.client()) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await _ask(running, ssl.create_default_context())
        assert running.posts() == [BODY]


@on_both_loops
async def test_asks_for_a_client_certificate_if_configured(tmp_path: Path, authority: Authority) -> None:
    """Only clients with one signed by client_ca get a connection."""
    other = Authority(tmp_path / "other")
    settings = _tls(authority, client_ca=str(authority.certificate))
    async with site(tmp_path / "journal", **settings) as running:
        for context in (authority.client(), authority.client(signed_by=other)):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await _ask(running, context)
        assert running.posts() == []
        assert await _ask(running, authority.client(signed_by=authority)) == 200
        assert running.posts() == [BODY]


def _lost(logged: list[Any]) -> Any:
    """The only line of a lost post."""
    (line,) = [line for line in logged if line["event"] == "post lost"]
    assert (line["log_level"], line["peer"]) == ("warning", "127.0.0.1")
    return line


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        ("untrusted", "the client does not trust the certificate"),
        ("no certificate", "give it one that tls.client_ca has signed"),
        ("another's certificate", "give it one that tls.client_ca has signed"),
    ],
)
@on_both_loops
async def test_a_failed_handshake_is_told(
    tmp_path: Path, authority: Authority, logged: list[Any], fault: str, hint: str, version: ssl.TLSVersion
) -> None:
    """AppMon loses its posts by it, so it is counted and logged with the peer and what to do."""
    other = Authority(tmp_path / "other")
    contexts = {
        "untrusted": ssl.create_default_context(),
        "no certificate": authority.client(),
        "another's certificate": authority.client(signed_by=other),
    }
    context = contexts[fault]
    context.minimum_version = context.maximum_version = version
    async with site(tmp_path / "journal", **_tls(authority, client_ca=str(authority.certificate))) as running:
        assert await asyncio.to_thread(_ask_blocking, running.port, context) == b""
        await running.until(Site.refused, "counted")
        assert running.refused() == running.lost() == {"bad_tls": 1}
        line = _lost(logged)
        assert (line["reason"], line["count"]) == ("bad_tls", 1)
        assert hint in line["hint"]
        assert await _ask(running, authority.client(signed_by=authority)) == 200
        assert running.refused() == {"bad_tls": 1}


def _ask_blocking(port: int, context: ssl.SSLContext) -> bytes:
    """The answer to a post, or nothing. Unlike asyncio's, this client says why it breaks off a handshake."""
    with (
        suppress(ssl.SSLError, ConnectionError),
        socket.create_connection(("127.0.0.1", port), DEADLINE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(request(BODY))
        return client.recv(2**16)
    return b""


def _client_hello(version: ssl.TLSVersion) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("sent", "close", "what"),
    [
        (lambda: request(BODY), False, "use https:// in its URL"),
        (lambda: b"\x00\x01" + bytes(100), False, "use https:// in its URL"),
        (lambda: _client_hello(ssl.TLSVersion.TLSv1_1), False, "allow TLS 1.2 or later"),
        (lambda: _client_hello(TLS_1_3), True, "may not trust the certificate"),
        (lambda: _client_hello(TLS_1_3)[:20], True, "may not trust the certificate"),
        (lambda: _client_hello(TLS_1_3)[:20], False, "longer than header_timeout"),
    ],
    ids=["HTTP", "garbage", "an old version", "gone", "gone in its hello", "slow"],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated", "ignore:.*MINIMUM_SUPPORTED is deprecated")
@on_both_loops
async def test_what_is_no_handshake_is_told(
    tmp_path: Path, authority: Authority, logged: list[Any], sent: Any, close: bool, what: str
) -> None:
    """Plain HTTP, an old version of TLS, and a client that goes or stalls on the way. Others are not disturbed."""
    timeout, tls = "100ms" if what.startswith("longer") else "5s", _tls(authority)
    async with site(tmp_path, header_timeout=timeout, **tls) as running, running.connect() as client:
        await client.send(sent())
        if close:
            client.writer.close()
        else:
            assert b"200" not in await client.rest()
        await running.until(Site.refused, "counted")
        assert running.refused() == running.lost() == {"bad_tls": 1}
        line = _lost(logged)
        assert what in line["error"] + line.get("hint", "")
        _set_deadlines(running, tls, "5s")  # a handshake may take longer on a busy machine
        assert await _ask(running, authority.client()) == 200
        assert running.posts() == [BODY]


@on_both_loops
async def test_a_connection_without_a_byte_does_not_count(tmp_path: Path, authority: Authority, logged: list[Any]) -> None:
    """It is a health check or a port scan, whether it closes by itself or at the deadline, or after a whole handshake."""
    tls = _tls(authority)
    async with site(tmp_path, **tls) as running:
        async with running.connect():
            await running.until(lambda it: it.receiver._server._state.connections, "accepted")
        async with running.connect(authority.client()):
            await running.until(lambda it: it.connections, "connected")
        _set_deadlines(running, tls, "100ms")
        async with running.connect() as silent:
            assert await silent.rest() == b""
        await running.until(lambda it: not it.receiver._server._state.connections, "all closed")
        assert running.refused() == {}
        assert {line["log_level"] for line in logged} == {"debug"}


@on_both_loops
async def test_an_error_after_the_handshake_is_told(tmp_path: Path, authority: Authority, logged: list[Any]) -> None:
    """With TLS 1.3 a client can fail when the server believes that all is well."""
    async with site(tmp_path, **_tls(authority)) as running, running.connect(authority.client()) as client:
        await running.until(lambda it: it.connections, "connected")
        with socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno())) as raw:
            raw.setblocking(True)
            raw.sendall(b"\x15\x03\x03\x00\x02\x02\x30")  # an alert in plain text
        await running.until(Site.refused, "counted")
        assert running.lost() == {"bad_tls": 1}
        assert _lost(logged)["reason"] == "bad_tls"


@on_both_loops
async def test_silent_connections_do_not_keep_others_out(tmp_path: Path, authority: Authority) -> None:
    """Also before their handshake, they have places of max_connections, and give way to new ones."""
    async with site(tmp_path, max_connections=2, **_tls(authority)) as running:
        async with running.connect() as first, running.connect():
            await running.until(lambda it: len(it.receiver._server._state.connections) == 2, "both accepted")
            assert await _ask(running, authority.client()) == 200
            assert await first.rest() == b""
            assert running.count("evicted_connections_total") >= 1
        assert running.refused() == {}


async def test_accepting_goes_on_after_an_error(
    tmp_path: Path, authority: Authority, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as too many open files."""
    accept, errors = socket.socket.accept, [OSError(errno.EMFILE, "Too many open files")]

    def fail_once(listening: socket.socket) -> Any:
        if errors:
            raise errors.pop()
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", fail_once)
    monkeypatch.setattr(listener, "ACCEPT_RETRY", 0.01)
    async with site(tmp_path, **_tls(authority)) as running:
        assert await _ask(running, authority.client()) == 200
    (line,) = [line for line in logged if line["log_level"] == "error"]
    assert line["event"] == "can't accept connections, retrying"
    assert "Too many open files" in line["error"]


@on_both_loops
async def test_a_stop_ends_handshakes(tmp_path: Path, authority: Authority) -> None:
    """Silent connections when the patience with them ends, and nothing can connect any more."""
    async with site(tmp_path, **_tls(authority)) as running, running.connect() as silent:
        await running.until(lambda it: it.receiver._server._state.connections, "accepted")
        await running.receiver.stop(patience=0.1)
        assert await silent.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await _ask(running, authority.client())
        assert running.refused() == {}


@on_both_loops
async def test_deadlines_apply_under_tls(tmp_path: Path, authority: Authority) -> None:
    """Half a header and half a body are cut off without waiting for the client to close its side."""
    tls, context = _tls(authority), authority.client()
    async with site(tmp_path, **tls) as running, running.connect(context) as one, running.connect(context) as other:
        for client in (one, other):
            await begin(client)
        _set_deadlines(running, tls, "100ms")
        for client, data in ((one, b"POST / HT"), (other, request(BODY)[:-1])):
            await client.send(data)
            assert await client.rest() == b""
        assert running.refused() == {"slow_header": 1, "slow_body": 1}


def test_a_server_process_speaks_tls(tmp_path: Path, authority: Authority) -> None:
    """As configured in TOML, and it stops cleanly."""
    certificate, key = authority.sign("server")
    server = Server(tmp_path, receiver=f'tls = {{ certificate = "{certificate}", key = "{key}" }}').start()
    url = f"https://localhost:{server.port}/"
    with urllib.request.urlopen(url, BODY, timeout=DEADLINE, context=authority.client()) as answer:
        assert (answer.status, answer.read()) == (200, b"")
    assert len(server.delivered(1)) == 1
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(url, BODY, timeout=DEADLINE)
    assert server.stop() == 0
    (line,) = [line for line in server.events() if line["event"] == "post lost"]
    assert (line["level"], line["reason"], line["error"]) == ("warning", "bad_tls", "tlsv1 alert unknown ca")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ("no such file", "no such file"),
        ("no key", "there is no private key in PEM format in it"),
        ("another key", "is not that of certificate"),
        ("a key with a password", "password"),
    ],
)
def test_says_what_is_wrong_with_a_key(tmp_path: Path, authority: Authority, fault: str, wrong: str) -> None:
    """And exits with 1. It never asks for a password at the terminal."""
    certificate, key = authority.sign("server")
    faulty = tmp_path / "faulty.key"
    if fault == "no key":
        faulty.write_text("no key\n")
    elif fault == "another key":
        faulty.write_bytes((authority.directory / "ca.key").read_bytes())
    elif fault == "a key with a password":
        openssl("pkcs8", "-topk8", "-in", key, "-out", faulty, "-passout", "pass:secret")
    server = Server(tmp_path, receiver=f'tls = {{ certificate = "{certificate}", key = "{faulty}" }}')
    command = [*BTFEED, "serve", "-c", str(server.config)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, start_new_session=True)
    assert (run.returncode, "Traceback" in run.stderr) == (1, False), run.stderr
    told = run.stderr.partition("can't start: ")[2]
    assert f"key {faulty}" in told
    assert wrong.lower() in told.lower()
