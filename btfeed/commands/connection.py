"""How `replay` and `generate` reach the server that they send to: credentials, certificates, and their options."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional
from urllib.parse import urlsplit

import typer

from btfeed.commands.secrets import secret, token
from sinks.shared.tls import client_context

CONNECTION = "Connection to the server"
"""Heading in --help."""
USER_VARIABLE, BEARER_VARIABLE = "BTFEED_USER", "BTFEED_BEARER"
"""Environment variables that stand for --user and --bearer."""

UserOption = Annotated[
    Optional[str],
    typer.Option(
        "--user", metavar="NAME:PASSWORD", rich_help_panel=CONNECTION,
        help=f"Credentials for Basic auth. Keep them out of the process list with @FILE, or ${USER_VARIABLE}.",
    ),
]  # fmt: skip
BearerOption = Annotated[
    Optional[str],
    typer.Option(
        "--bearer", metavar="TOKEN", rich_help_panel=CONNECTION,
        help=f"Token for Bearer auth; also as @FILE, or in ${BEARER_VARIABLE}.",
    ),
]  # fmt: skip
CertificateOption = Annotated[
    Optional[Path],
    typer.Option(
        "--certificate", metavar="FILE", rich_help_panel=CONNECTION,
        help="PEM file with a certificate to show to the server.",
    ),
]  # fmt: skip
KeyOption = Annotated[
    Optional[Path],
    typer.Option(
        "--key", metavar="FILE", rich_help_panel=CONNECTION,
        help="PEM file with its private key, unless that is in the file of --certificate.",
    ),
]  # fmt: skip
CaOption = Annotated[
    Optional[Path],
    typer.Option(
        "--ca", metavar="FILE", rich_help_panel=CONNECTION, help="PEM file with the CA of the server's certificate."
    ),
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", rich_help_panel=CONNECTION, help="Accept any server certificate.")
]


@dataclass(frozen=True, slots=True)
class Access:
    """The values of these options, as they were given. Its methods raise BadParameter."""

    user: str | None = None
    bearer: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    insecure: bool = False

    def files(self) -> list[Path]:
        """The files that are read."""
        secrets = [Path(text[1:]) for text in (self.user, self.bearer) if text and text.startswith("@")]
        return [*secrets, *filter(None, (self.certificate, self.key, self.ca))]

    def authorization(self, url: str, environment: Mapping[str, str] = os.environ) -> str | tuple[str, str] | None:
        """A bearer token, or a name and its password, or None. Options win over credentials in the URL, and those over the
        environment."""
        in_url = "@" in urlsplit(url).netloc
        user, bearer, user_hint, bearer_hint = self.user, self.bearer, "--user", "--bearer"
        if in_url and (user is not None or bearer is not None):
            hint = user_hint if user is not None else bearer_hint
            raise typer.BadParameter("the URL has credentials already: leave one of them out", param_hint=hint)
        if user is None and bearer is None and not in_url:
            user, bearer = environment.get(USER_VARIABLE), environment.get(BEARER_VARIABLE)
            user_hint, bearer_hint = f"${USER_VARIABLE}", f"${BEARER_VARIABLE}"
        if user is not None and bearer is not None:
            raise typer.BadParameter(f"use either {user_hint} or {bearer_hint}, not both", param_hint=bearer_hint)
        if bearer is not None:
            return token(bearer, bearer_hint)
        return None if user is None else name_and_password(secret(user, user_hint), user_hint)

    def tls(self, url: str) -> ssl.SSLContext | None:
        """The TLS context, or None for the default one."""
        if self.key and not self.certificate:
            raise typer.BadParameter("it needs the certificate of that key: add --certificate", param_hint="--key")
        if self.certificate and urlsplit(url).scheme != "https":
            raise typer.BadParameter("only a URL that starts with https:// can ask for one", param_hint="--certificate")
        return client_tls(self.ca, self.insecure, self.certificate, self.key)


def client_tls(
    ca: Path | None, insecure: bool, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext | None:
    """None if nothing of it is given, and the default is right. Raises BadParameter."""
    if not ca and not insecure and not certificate:
        return None
    hint = "--ca"
    try:
        context = client_context(ca, ca_only=True)
        hint = "--certificate"
        if certificate:
            context = client_context(ca, certificate, key, ca_only=True)
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def name_and_password(text: str, hint: str) -> tuple[str, str]:
    """Of the value of an option. Raises BadParameter."""
    name, colon, password = text.partition(":")
    if not colon:
        raise typer.BadParameter("write it as NAME:PASSWORD", param_hint=hint)
    return name, password
