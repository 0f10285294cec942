"""HTTPS, with certificates made for the tests."""

import asyncio
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority, openssl
from tests.support.harness import BTFEED, DEADLINE, Server
from tests.support.posts import sample_visit
from tests.support.rawhttp import Site, request, site

BODY = sample_visit()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


def _tls(authority: Authority, **more: str) -> dict[str, Any]:
    certificate, key = authority.sign("server")
    return {"tls": {"certificate": str(certificate), "key": str(key)} | more}


async def _ask(running: Site, context: ssl.SSLContext) -> int:
    async with running.connect(context) as client:
        await client.send(request(BODY))
        return (await client.response()).status


async def test_accepts_posts_over_tls(tmp_path: Path, authority: Authority) -> None:
    """A client that trusts the authority can post. One that does not gets no connection."""
    async with site(tmp_path, **_tls(authority)) as running:
        assert await _ask(running, authority.client()) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await _ask(running, ssl.create_default_context())
        assert running.posts() == [BODY]


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


async def test_connections_without_tls_are_closed(tmp_path: Path, authority: Authority) -> None:
    """Plain HTTP at once, a missing handshake at the deadline for headers. Others are not disturbed."""
    async with site(tmp_path, header_timeout="300ms", **_tls(authority)) as running:
        async with running.connect() as silent, running.connect() as plain:
            await plain.send(request(BODY))
            assert b"200" not in await plain.rest()
            assert await silent.rest() == b""
        assert await _ask(running, authority.client()) == 200
        assert running.posts() == [BODY]


async def test_deadlines_apply_under_tls(tmp_path: Path, authority: Authority) -> None:
    """Half a header and half a body are cut off without waiting for the client to close its side."""
    fast: dict[str, Any] = {"header_timeout": "300ms", "body_timeout": "300ms"}
    async with site(tmp_path, **fast, **_tls(authority)) as running:
        for data in (b"POST / HT", request(BODY)[:-1]):
            async with running.connect(authority.client()) as client:
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
    assert server.stop() == 0


@pytest.mark.parametrize("fault", ["no such file", "no key", "another key", "a key with a password"])
def test_says_what_is_wrong_with_a_certificate(tmp_path: Path, authority: Authority, fault: str) -> None:
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
    assert f"can't start: certificate {certificate}, key {faulty}: " in run.stderr
