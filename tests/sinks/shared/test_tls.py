"""TLS contexts from PEM files, and what is said of files that can't be used."""

import ssl
from pathlib import Path

import pytest

from sinks.base import Misconfigured
from sinks.shared.tls import TlsFileError, client_context, server_context, sink_context
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
    for files in ((bad, key), (certificate, bad)):
        message = f"certificate {files[0]}, key {files[1]}: "
        with pytest.raises(TlsFileError, match=message):
            client_context(None, *files)
        with pytest.raises(TlsFileError, match=message):
            server_context(*files)
        with pytest.raises(Misconfigured, match=message):
            sink_context(None, *files)


def test_an_encrypted_key_is_refused(authority: Authority, tmp_path: Path) -> None:
    """Otherwise OpenSSL would ask for its password at the terminal."""
    certificate, key = authority.sign("server")
    encrypted = tmp_path / "encrypted.key"
    openssl("pkcs8", "-topk8", "-in", key, "-out", encrypted, "-passout", "pass:word")
    with pytest.raises(TlsFileError, match=str(encrypted)):
        client_context(None, certificate, encrypted)
