"""References in strings: variables, files and systemd credentials, and what is said if one stands for nothing."""

import os
from pathlib import Path
from typing import Any

import pytest

from btfeed import config
from btfeed.address import HOW_TO_WRITE
from btfeed.config.substitution import FORMS, MAX_FILE_SIZE
from btfeed.faults import ConfigError

ENVIRONMENT = {"NAME": "value", "EMPTY": "", "my.name-1": "dotted"}


def expanded(text: str, base: Path, environment: dict[str, str] | None = None) -> str:
    """What `text` becomes in an attribute."""
    tables = {"record": {"attributes": {"a": text}}}
    found: str = config.parse(tables, ENVIRONMENT | (environment or {}), base).record.attributes["a"]
    return found


def fault(text: str, base: Path, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as raised:
        expanded(text, base, environment)
    (found,) = raised.value.faults
    assert found.startswith("record.attributes.a: ")
    return found.removeprefix("record.attributes.a: ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${NAME}", "value"),
        ("<${NAME}${NAME}>", "<valuevalue>"),
        ("${my.name-1}", "dotted"),
        ("${EMPTY:-}", ""),
        ("${NAME:-other}", "value"),
        ("${EMPTY:-other}", "other"),
        ("${NONE:-other}", "other"),
        ("${NONE:-}", ""),
        ("${NONE:- a:-b $ }", " a:-b $ "),
        ("${file:-x}", "x"),
        ("$${NAME}", "${NAME}"),
        ("$${", "${"),
        ("$NAME $ {NAME} $$ }", "$NAME $ {NAME} $$ }"),
        ("${file:secret}", "from a file"),
        ("${file:folder/other}", "from a folder"),
        ("${credential:token}", "from systemd"),
    ],
)
def test_every_form_stands_for_its_value(text: str, value: str, tmp_path: Path) -> None:
    """A default is for a variable that is not set or empty, as in a shell. Files start at the configuration's directory."""
    (tmp_path / "secret").write_bytes(b"\xef\xbb\xbf from a file \r\n\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "other").write_text("from a folder")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "token").write_text("from systemd\n")
    assert expanded(text, tmp_path, {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}) == value


def test_what_a_reference_stands_for_is_not_expanded_again(tmp_path: Path) -> None:
    """A secret may contain the characters of a reference."""
    assert expanded("${SECRET}", tmp_path, {"SECRET": "${NAME} $${"}) == "${NAME} $${"


@pytest.mark.parametrize(
    "text", ["${}", "${foo:bar}", "${NAME:}", "${NAME:=x}", "${NAME?}", "${NAME NAME}", "${1}", "${file:}", "${ NAME }"]
)
def test_an_unknown_form_is_an_error_that_lists_the_forms(text: str, tmp_path: Path) -> None:
    """Also forms that shells have. The text itself is not shown: it may be part of a password."""
    assert fault(text, tmp_path) == f"unknown form of ${{...}}: the forms are {FORMS}"


def test_a_home_directory_is_not_guessed(tmp_path: Path) -> None:
    """The server may run as another user."""
    assert fault("${file:~/secret}", tmp_path).startswith("${file:PATH}: write the absolute path")


@pytest.mark.parametrize("text", ["${NAME", "a ${ b", "${NAME:-${OTHER}}", "${${NAME}}", "${NAME:-{}}"])
def test_a_reference_without_an_end_or_with_braces_inside_is_an_error(text: str, tmp_path: Path) -> None:
    """Defaults are plain text. Whoever means the characters writes $${."""
    assert fault(text, tmp_path) == "${ without its }: there can be no braces inside, and $${ is a literal ${"


def test_a_file_that_can_not_be_taken_is_named_with_the_reason(tmp_path: Path) -> None:
    """A missing one, a directory, a named pipe (which would block), binary data, and one that is too large."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"SECRET\xff")
    (tmp_path / "large").write_bytes(b"x" * (MAX_FILE_SIZE + 1))
    (tmp_path / "largest").write_bytes(b"x" * MAX_FILE_SIZE)
    names = ("none", "folder", "pipe", "binary", "large", "binary/x")
    found = {name: fault(f"${{file:{name}}}", tmp_path) for name in names}
    assert found == {
        "none": f"${{file:none}}: can't read {tmp_path}/none: No such file or directory",
        "folder": f"${{file:folder}}: can't read {tmp_path}/folder: Is a directory",
        "pipe": f"${{file:pipe}}: {tmp_path}/pipe is not a regular file",
        "binary": f"${{file:binary}}: {tmp_path}/binary is not text in UTF-8",
        "large": f"${{file:large}}: {tmp_path}/large is larger than 1 MiB",
        "binary/x": f"${{file:binary/x}}: can't read {tmp_path}/binary/x: Not a directory",
    }
    assert fault(f"${{file:{tmp_path}/none}}", tmp_path).endswith(f"can't read {tmp_path}/none: No such file or directory")
    assert "can't read" in fault("${file:a\0b}", tmp_path)
    assert len(expanded("${file:largest}", tmp_path)) == MAX_FILE_SIZE


def test_a_file_that_must_not_be_read_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another user owned it."""

    def denied(path: object, *_: Any) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("btfeed.regular_file.os.open", denied)
    assert fault("${file:secret}", tmp_path) == f"${{file:secret}}: can't read {tmp_path}/secret: Permission denied"


def test_what_is_empty_stands_for_nothing(tmp_path: Path) -> None:
    """A variable or a file. Otherwise an empty password would be taken for one, or refused without where it came from."""
    (tmp_path / "empty").write_text(" \n")
    message = "environment variable EMPTY is empty; write ${EMPTY:-} if it may be"
    assert fault("${EMPTY}", tmp_path) == fault("a ${EMPTY}", tmp_path, {"EMPTY": " \n"}) == message
    assert fault("${file:empty}", tmp_path) == f"${{file:empty}}: {tmp_path}/empty is empty"
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert fault("${credential:empty}", tmp_path, credentials) == f"${{credential:empty}}: {tmp_path}/empty is empty"


def test_an_error_says_which_reference_a_value_comes_from(tmp_path: Path) -> None:
    """Never the value, and not the default, which may be a secret."""
    (tmp_path / "bad").write_text("with SECRET spaces")
    tables = {
        "receiver": {"bearer_tokens": ["${NONE:-}"], "listen": "${ADDRESS}", "header_timeout": "${NONE:-0s}"},
        "admin": {"token": "${file:bad}"},
    }
    with pytest.raises(ConfigError) as raised:
        config.parse(tables, {"ADDRESS": "SECRET"}, tmp_path)
    assert raised.value.faults == [
        f"receiver.listen: invalid address: {HOW_TO_WRITE} (the value is that of ${{ADDRESS}})",
        "receiver.bearer_tokens.0: must not be empty (the value is that of ${NONE:-})",
        "receiver.header_timeout: must be greater than 0 (the value is that of ${NONE})",
        "admin.token: must consist of visible ASCII characters, without spaces (the value is that of ${file:bad})",
    ]


@pytest.mark.parametrize("token", ["", "${NONE:-}"])
@pytest.mark.parametrize(("table", "key"), [({}, "admin.token"), ({"type": "bizevents", "url": "https://e"}, "api_token")])
def test_an_empty_token_is_said_to_be_empty(token: str, table: dict[str, str], key: str) -> None:
    """Not to have the wrong characters."""
    tables = {"sinks": {"b": table | {key: token}}} if table else {"admin": {"token": token}}
    with pytest.raises(ConfigError) as raised:
        config.parse(tables, {})
    assert ": must not be empty" in raised.value.faults[0]


def test_a_malformed_reference_is_an_error_even_where_secrets_need_not_be_there() -> None:
    """It is a mistake in the file, which no variable mends."""
    for text in ("${}", "${UNSET", "${a:-a${b}}", "${a b}", "${credential:a/b}"):
        with pytest.raises(ConfigError) as raised:
            config.parse({"admin": {"token": text}, "receiver": {"bearer_tokens": ["${NONE}"]}}, {}, tolerant=True)
        assert len(raised.value.faults) == 2
        assert raised.value.unresolved == ["receiver.bearer_tokens.0: environment variable NONE is not set"]


def test_a_missing_credential_says_how_to_pass_it(tmp_path: Path) -> None:
    """Whether systemd has passed none at all, or only not this one."""
    how = "add LoadCredential=token:FILE to the unit"
    assert fault("${credential:token}", tmp_path) == (
        f"systemd has passed no credentials, or did not start this process: {how}"
    )
    assert fault("${credential:token}", tmp_path, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == (
        f"systemd has passed no credential token: {how}"
    )


@pytest.mark.parametrize("name", ["", "../x", "a/b", "..", "."])
def test_a_credential_is_a_name_and_no_path(name: str, tmp_path: Path) -> None:
    """A file is `${file:PATH}`."""
    message = "${credential:NAME} takes the name of a systemd credential, without slashes"
    assert fault(f"${{credential:{name}}}", tmp_path, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == message


def test_secrets_are_read_again_by_each_load(tmp_path: Path) -> None:
    """So a reload takes over what has changed."""
    file, secret = tmp_path / "btfeed.toml", tmp_path / "secret"
    file.write_text('[receiver]\nbearer_tokens = ["${file:secret}"]\n')
    for token in ("one", "two"):
        secret.write_text(f"{token}\n")
        (found,) = config.load(file, {}).receiver.bearer_tokens
        assert found.get_secret_value() == token


def test_errors_that_follow_from_an_unresolved_reference_are_not_reported() -> None:
    """Neither at its path nor below it."""
    tables = {
        "admin": {"listen": "${LISTEN}"},
        "sinks": {
            "k": {"type": "kafka", "bootstrap_servers": "k:1", "format": "avro", "schema_registry": "${URL}"},
            "e": {"type": "elasticsearch", "hosts": ["${HOST}"]},
        },
    }
    with pytest.raises(ConfigError) as raised:
        config.parse(tables, {})
    assert raised.value.faults == [
        "admin.listen: environment variable LISTEN is not set",
        "sinks.k.schema_registry: environment variable URL is not set",
        "sinks.e.hosts.0: environment variable HOST is not set",
    ]
