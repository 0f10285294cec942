"""TLS contexts of clients and servers, from PEM files, and when the certificates in them are valid."""

import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from sinks.base import Misconfigured

File = str | Path


_CERTIFICATE, _KEY = "CERTIFICATE", "PRIVATE KEY"
"""How PEM names them."""
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Validity(NamedTuple):
    """When certificates are valid: from `begin` to `end`."""

    begin: datetime
    end: datetime


class TlsFileError(OSError):
    """A certificate or key file can't be used. The message names the file and the reason."""


class _BriefGoodbye(ssl.SSLObject):
    """One side of a connection. When it closes, it does not wait for the other side to say so, too, as TLS allows.
    Otherwise event loops keep a closed connection for half a minute if the other side is silent."""

    def unwrap(self) -> None:
        with suppress(ssl.SSLWantReadError):
            super().unwrap()


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
        raise TlsFileError(f"can't load trusted certificates from {ca}: {_fault(ca, _CERTIFICATE, error)}") from error
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
        raise TlsFileError(f"client_ca {client_ca}: {_fault(client_ca, _CERTIFICATE, error)}") from error
    _load_certificate(context, certificate, key)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def sink_context(ca: File | None = None, certificate: File | None = None, key: File | None = None) -> ssl.SSLContext:
    """`client_context` for sinks, whose connections on an event loop close at once. Raises Misconfigured."""
    try:
        context = client_context(ca, certificate, key)
    except TlsFileError as error:
        raise Misconfigured(str(error)) from error
    context.sslobject_class = _BriefGoodbye
    return context


def validity(certificates: File) -> Validity:
    """When all the certificates in a PEM file are valid. Raises TlsFileError."""
    try:
        found = _PEM.findall(_text(certificates))
        if not found:
            raise ValueError("there is none")
        begins, ends = zip(*(_validity(ssl.PEM_cert_to_DER_cert(pem)) for pem in found), strict=True)
        return Validity(max(begins), min(ends))
    except OSError as error:
        raise TlsFileError(f"can't read certificates from {certificates}: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise TlsFileError(f"can't read certificates from {certificates}: {error}") from error


def _validity(certificate: bytes) -> Validity:
    """Of a DER certificate (RFC 5280), which `ssl` tells only of a peer. Raises ValueError or IndexError."""
    (_, whole), *_ = _fields(certificate)
    (_, signed), *_ = _fields(whole)
    fields = list(_fields(signed))
    version = fields[0][0] == 0xA0
    begin, end = _fields(fields[3 + version][1])
    return Validity(_moment(*begin), _moment(*end))


def _moment(kind: int, text: bytes) -> datetime:
    utc_time = 0x17  # with two digits for the year
    return datetime.strptime(text.decode("ascii"), "%y%m%d%H%M%SZ" if kind == utc_time else "%Y%m%d%H%M%SZ").replace(
        tzinfo=UTC
    )


def _fields(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each value in `der`."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            begin, at = at, at + (length & 0x7F)
            length = int.from_bytes(der[begin:at])
        yield tag, der[at : at + length]
        at += length


def _load_certificate(context: ssl.SSLContext, certificate: File, key: File | None) -> None:
    try:
        context.load_cert_chain(certificate, key, password="")  # without one, OpenSSL asks at the terminal
    except OSError as error:
        raise TlsFileError(_pair_fault(certificate, key or certificate, error)) from error


def _pair_fault(certificate: File, key: File, error: OSError) -> str:
    """Which of the two files OpenSSL can't use, and why."""
    if isinstance(error, ssl.SSLError) and error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        return f"key {key} is not that of certificate {certificate}: use the two that were made together"
    for role, file, kind in (("certificate", certificate, _CERTIFICATE), ("key", key, _KEY)):
        if fault := _unusable(file, kind):
            return f"{role} {file}: {fault}"
    if "ENCRYPTED" in _text(key):
        return f"key {key}: it is encrypted: write it without a password, with `openssl pkey -in {key} -out FILE`"
    files = f"certificate {certificate}, key {key}" if key != certificate else f"certificate and key {certificate}"
    return f"{files}: {_damaged(error)}"


def _fault(file: File | None, kind: str, error: OSError) -> str:
    """Why OpenSSL can't use a file."""
    return (_unusable(file, kind) if file else None) or _damaged(error)


def _unusable(file: File, kind: str) -> str | None:
    """Why a file can't be read, or that it has no `kind` of PEM."""
    try:
        found = re.search(rf"-----BEGIN [A-Z0-9 ]*{kind}-----", _text(file))
    except OSError as error:
        return error.strerror or str(error)
    return None if found else f"there is no {kind.lower()} in PEM format in it, which begins with -----BEGIN"


def _damaged(error: OSError) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else ""
    said = f" (OpenSSL: {reason.lower().replace('_', ' ')})" if reason else ""
    return f"it is damaged, or of a kind that OpenSSL does not take{said}"


def _text(file: File) -> str:
    """Raises OSError."""
    return Path(file).read_text("ascii", "replace")
