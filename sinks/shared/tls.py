"""TLS contexts of clients and servers, from PEM files."""

import ssl
from pathlib import Path

from sinks.base import Misconfigured

File = str | Path


class TlsFileError(OSError):
    """A certificate or key file can't be used. The message names the file and the reason."""


def client_context(
    ca: File | None = None, certificate: File | None = None, key: File | None = None, *, ca_only: bool = False
) -> ssl.SSLContext:
    """A context that trusts the certificates in `ca` and, unless `ca_only`, the system's. `certificate`: the client's own.

    TLS versions are Python's default, 1.2 or later. Raises TlsFileError.
    """
    try:
        context = ssl.create_default_context(cafile=ca if ca_only else None)
        if ca and not ca_only:
            context.load_verify_locations(ca)
    except OSError as error:  # ssl.SSLError is an OSError
        raise TlsFileError(f"can't load trusted certificates from {ca}: {error}") from error
    if certificate:
        _load_certificate(context, certificate, key)
    return context


def server_context(certificate: File, key: File, client_ca: File | None = None) -> ssl.SSLContext:
    """A context of a server. With `client_ca`, clients must show a certificate that is signed by one in that file.

    Raises TlsFileError.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    except OSError as error:
        raise TlsFileError(f"client_ca {client_ca}: {error}") from error
    _load_certificate(context, certificate, key)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def sink_context(ca: File | None = None, certificate: File | None = None, key: File | None = None) -> ssl.SSLContext:
    """`client_context` for sinks: raises Misconfigured."""
    try:
        return client_context(ca, certificate, key)
    except TlsFileError as error:
        raise Misconfigured(str(error)) from error


def _load_certificate(context: ssl.SSLContext, certificate: File, key: File | None) -> None:
    try:
        context.load_cert_chain(certificate, key, password="")  # without one, OpenSSL asks at the terminal
    except OSError as error:
        raise TlsFileError(f"certificate {certificate}, key {key}: {error}") from error
