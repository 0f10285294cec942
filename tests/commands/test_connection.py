"""Credentials and certificates of `replay` and `generate`: where they come from, and that the server gets them."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from btfeed.commands.connection import BEARER_VARIABLE, USER_VARIABLE, Access
from tests.commands.test_main import EXAMPLES, invoke
from tests.support.certificates import Authority
from tests.support.harness import Server

URL = "http://127.0.0.1:4321/"
IN_URL = "http://a:b@127.0.0.1:4321/"
POST = EXAMPLES / "visit.bin"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (USER_VARIABLE, BEARER_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "given", "environment", "found"),
    [
        (URL, {}, {}, None),
        (URL, {"user": "a:b:c"}, {}, ("a", "b:c")),
        (URL, {"bearer": "t"}, {}, "t"),
        (URL, {}, {USER_VARIABLE: "a:b"}, ("a", "b")),
        (URL, {}, {BEARER_VARIABLE: "t"}, "t"),
        (URL, {"bearer": "t"}, {USER_VARIABLE: "a:b", BEARER_VARIABLE: "u"}, "t"),
        (IN_URL, {}, {USER_VARIABLE: "c:d"}, None),
    ],
)
def test_options_come_before_the_environment(
    url: str, given: dict[str, str], environment: dict[str, str], found: Any
) -> None:
    """And credentials in the URL, which the target takes from there, before that as well."""
    assert Access(**given).authorization(url, environment) == found  # type: ignore[arg-type]


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    """Of an option or of a variable. A newline at its end does not belong to it. No output may be that file."""
    (tmp_path / "user").write_text("appmon:pässwörd\n")
    (tmp_path / "token").write_text("t0ken\r\n")
    in_file = Access(user=f"@{tmp_path / 'user'}")
    assert in_file.authorization(URL) == ("appmon", "pässwörd")
    assert in_file.files() == [tmp_path / "user"]
    assert Access().authorization(URL, {BEARER_VARIABLE: f"@{tmp_path / 'token'}"}) == "t0ken"


@pytest.mark.parametrize(
    ("url", "given", "environment", "hint", "message"),
    [
        (URL, {"user": "a:b", "bearer": "t"}, {}, "--bearer", "use either --user or --bearer, not both"),
        (URL, {}, {USER_VARIABLE: "a:b", BEARER_VARIABLE: "t"}, "$BTFEED_BEARER", "use either $BTFEED_USER or $BTFEED_BEA"),
        (URL, {"user": "a"}, {}, "--user", "write it as NAME:PASSWORD"),
        (URL, {}, {USER_VARIABLE: "a"}, "$BTFEED_USER", "write it as NAME:PASSWORD"),
        (URL, {"bearer": "two words"}, {}, "--bearer", "visible ASCII characters"),
        (URL, {"bearer": ""}, {}, "--bearer", "it is empty"),
        (URL, {"bearer": "@/gone"}, {}, "--bearer", "can't read /gone: No such file or directory"),
        (IN_URL, {"bearer": "t"}, {}, "--bearer", "the URL has credentials already"),
    ],
)
def test_credentials_that_can_not_be_used_are_wrong_usage(
    url: str, given: dict[str, str], environment: dict[str, str], hint: str, message: str
) -> None:
    """The message names the option or the variable."""
    with pytest.raises(typer.BadParameter) as raised:
        Access(**given).authorization(url, environment)  # type: ignore[arg-type]
    assert raised.value.param_hint == hint
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("url", "given", "hint", "message"),
    [
        ("https://localhost/", {"key": POST}, "--key", "add --certificate"),
        (URL, {"certificate": POST}, "--certificate", "starts with https://"),
        (
            "https://localhost/",
            {"certificate": POST},
            "--certificate",
            f"certificate {POST}: there is no certificate in",
        ),
        ("https://localhost/", {"ca": POST}, "--ca", f"can't load trusted certificates from {POST}"),
    ],
)
def test_certificates_that_can_not_be_used_are_wrong_usage(
    url: str, given: dict[str, Path], hint: str, message: str
) -> None:
    """Before anything is sent."""
    with pytest.raises(typer.BadParameter) as raised:
        Access(**given).tls(url)  # type: ignore[arg-type]
    assert raised.value.param_hint == hint
    assert message in str(raised.value)


def test_the_default_context_is_left_to_the_client() -> None:
    """Unless something is to be different. --insecure checks nothing."""
    assert Access().tls("https://localhost/") is None
    context = Access(insecure=True).tls("https://localhost/")
    assert context
    assert context.verify_mode == ssl.CERT_NONE


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Authority]]:
    """A server that wants a bearer token and a client certificate."""
    directory = tmp_path_factory.mktemp("guarded")
    authority = Authority(directory / "ca")
    certificate, key = authority.sign("server")
    tls = f'tls = {{ certificate = "{certificate}", key = "{key}", client_ca = "{authority.certificate}" }}'
    with Server(directory / "server", "", receiver=f'bearer_tokens = ["t0ken"]\n{tls}') as running:
        yield running, authority


@pytest.mark.parametrize("command", [["replay", POST], ["generate", "web-shop", "--flows", 1]], ids=["replay", "generate"])
def test_a_server_gets_token_and_certificate(
    guarded: tuple[Server, Authority], command: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From options, and the token from the environment. Without one of them, it takes nothing."""
    server, authority = guarded
    certificate, key = authority.sign("client")
    url = (
        ["--url", f"https://localhost:{server.port}/"] if command[0] == "replay" else [f"https://localhost:{server.port}/"]
    )
    trusted = [*command, *url, "--ca", authority.certificate]
    shown = [*trusted, "--certificate", certificate, "--key", key]
    assert invoke(*shown, "--bearer", "t0ken").exit_code == 0
    monkeypatch.setenv(BEARER_VARIABLE, "t0ken")
    assert invoke(*shown).exit_code == 0
    assert invoke(*trusted).exit_code == 1
    monkeypatch.setenv(BEARER_VARIABLE, "wrong")
    refused = invoke(*shown)
    assert refused.exit_code == 1
    assert "401 Unauthorized" in refused.stdout
