"""TLS contexts from PEM files, and the errors for files that can't be used."""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from sinks.base import Misconfigured
from sinks.shared.tls import TlsFileError, client_context, server_context, sink_context, validity
from tests.support.certificates import Authority, openssl


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


def subjects(context: ssl.SSLContext) -> list[object]:
    return [certificate["subject"] for certificate in context.get_ca_certs()]


def test_a_client_trusts_the_system_and_the_authority(authority: Authority) -> None:
    """It verifies names, and shows its own certificate if there is one."""
    certificate, key = authority.sign("client")
    context = client_context(authority.certificate, certificate, key)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    ours = ((("commonName", "test-ca"),),)
    assert ours in subjects(context)
    assert set(subjects(client_context())) <= {*subjects(context)} - {ours}


def test_a_server_asks_for_certificates_only_if_configured(authority: Authority) -> None:
    """And trusts only that authority, not the system's."""
    files = authority.sign("server")
    assert server_context(*files).verify_mode == ssl.CERT_NONE
    context = server_context(*files, authority.certificate)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert len(subjects(context)) == 1


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_sink_closes_connections_to_a_silent_server(
    authority: Authority, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """It waits for no goodbye, so that nothing is open any more when its event loop ends."""
    files = authority.sign("server")

    async def connect_and_close(listening: socket.socket) -> None:
        accepting = asyncio.create_task(asyncio.to_thread(accept, listening))
        _, writer = await asyncio.open_connection(*listening.getsockname(), ssl=sink_context(authority.certificate))
        with await accepting:
            writer.close()
            await writer.wait_closed()

    def accept(listening: socket.socket) -> ssl.SSLSocket:
        return server_context(*files).wrap_socket(listening.accept()[0], server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(connect_and_close(listening))


@pytest.mark.parametrize("fault", ["missing", "not a certificate"])
def test_a_file_that_cannot_be_used_is_named(authority: Authority, tmp_path: Path, fault: str) -> None:
    """With the reason, for each of the files."""
    bad = tmp_path / "bad.pem"
    if fault != "missing":
        bad.write_text("no certificate\n")
    certificate, key = authority.sign("server")
    with pytest.raises(TlsFileError, match=f"trusted certificates from {bad}: "):
        client_context(bad)
    with pytest.raises(TlsFileError, match=f"client_ca {bad}: "):
        server_context(certificate, key, bad)
    for role, files in (("certificate", (bad, key)), ("key", (certificate, bad))):
        kind = "certificate" if role == "certificate" else "private key"
        reason = "No such file or directory" if fault == "missing" else f"there is no {kind} in PEM format in it"
        message = f"^{role} {bad}: {reason}"
        with pytest.raises(TlsFileError, match=message):
            client_context(None, *files)
        with pytest.raises(TlsFileError, match=message):
            server_context(*files)
        with pytest.raises(Misconfigured, match=message):
            sink_context(None, *files)


def test_what_openssl_can_not_use_is_told_in_words(authority: Authority, tmp_path: Path) -> None:
    """A key of another certificate, and a file that is damaged. Neither Python's nor OpenSSL's source lines are shown."""
    certificate, key = authority.sign("server")
    _, other = authority.sign("other")
    with pytest.raises(TlsFileError, match=f"^key {other} is not that of certificate {certificate}: use the two"):
        server_context(certificate, other)
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(TlsFileError, match=f"from {damaged}: it is damaged, or of a kind that OpenSSL") as raised:
        client_context(damaged)
    assert "_ssl.c" not in str(raised.value)
    with pytest.raises(TlsFileError, match=f"certificate {damaged}, key {key}: it is damaged") as raised:
        server_context(damaged, key)
    assert "_ssl.c" not in str(raised.value)


def test_an_encrypted_key_is_refused(authority: Authority, tmp_path: Path) -> None:
    """Otherwise OpenSSL would ask for its password at the terminal."""
    certificate, key = authority.sign("server")
    encrypted = tmp_path / "encrypted.key"
    openssl("pkcs8", "-topk8", "-in", key, "-out", encrypted, "-passout", "pass:word")
    with pytest.raises(TlsFileError, match=f"^key {encrypted}: it is encrypted: write it without a password"):
        client_context(None, certificate, encrypted)


@pytest.mark.parametrize("days", [1, 400, 20_000, 60_000])
def test_the_end_of_a_certificate_is_what_openssl_says(authority: Authority, tmp_path: Path, days: int) -> None:
    """Before 2050 and after, when it is written differently. Of several in a file, the first to end counts."""
    path = tmp_path / "long.pem"
    openssl("req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", tmp_path / "key", "-out", path, "-days", str(days),
            "-subj", "/CN=a name", "-addext", "subjectAltName=DNS:localhost")  # fmt: skip
    assert validity(path).end.timestamp() == _end(path)
    short, _ = authority.sign("server")
    chain = tmp_path / "chain.pem"
    chain.write_text(path.read_text() + "a comment\n" + short.read_text())
    assert validity(chain).end.timestamp() == min(_end(path), _end(short))


def _end(certificate: Path) -> int:
    command = ["openssl", "x509", "-in", str(certificate), "-noout", "-enddate"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return ssl.cert_time_to_seconds(text.strip().removeprefix("notAfter="))


@pytest.mark.parametrize(
    "text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n", "MAA", "AAAA"]
)
def test_a_file_without_a_readable_certificate_is_named(tmp_path: Path, text: str) -> None:
    """Whatever is in it."""
    path = tmp_path / "bad.pem"
    framed = f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n" if text.isalnum() else text
    path.write_text(framed)
    with pytest.raises(TlsFileError, match=f"can't read certificates from {path}: "):
        validity(path)
    with pytest.raises(TlsFileError, match=f"can't read certificates from {tmp_path}: "):
        validity(tmp_path)
