"""URLs on the command line: no message shows the credentials in them, and each says what is wrong in its own words."""

from pathlib import Path

import pytest

from btfeed.commands.urls import looks_like_url, shown, without_credentials
from tests.commands.test_main import invoke

BIN = "visit.bin"


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "http://u:PLANTED@127.0.0.1:9", BIN],
        ["replay", "u:PLANTED@127.0.0.1:9", BIN],
        ["replay", "http://u:PLANTED@127.0.0.1:9"],
        ["replay", BIN, "u:PLANTED@127.0.0.1:1"],
        ["replay", BIN, "u:PLANTED@localhost"],
        ["replay", BIN, "http://u:PLANTED/TED@127.0.0.1:9"],
        ["replay", BIN, "http://u:PLANTED#TED@127.0.0.1:9"],
        ["replay", BIN, "http://u:PLANTED@127.0.0.1:99999"],
        ["replay", BIN, "http://u:PLANTED@[::1"],
        ["replay", BIN, "http://u:PLANTED\N{CARE OF}x@host"],
        ["replay", BIN, "http://u:PLANTED@host/", "--user", "a:b"],
        ["replay", BIN, "http://u:PLANTED@host/", "--url", "http://x/"],
        ["replay", BIN, "--url", "ftp://u:PLANTED@host/"],
        ["generate", "http://u:PLANTED@host/"],
        ["generate", "web-shop", "ftp://u:PLANTED@host/"],
        ["generate", "web-shop", "http://host/", "http://u:PLANTED@host/"],
        ["capture", "--out", "a.btposts", "--forward", "u:PLANTED@host:1"],
        ["status", "--url", "u:PLANTED@127.0.0.1:1"],
        ["status", "--url", "http://u:PLANTED@127.0.0.1:1"],
        ["status", "http://u:PLANTED@127.0.0.1:1"],
        ["sinks", "pause", "x", "--url", "http://u:PLANTED/x@127.0.0.1:1"],
        ["http://u:PLANTED@127.0.0.1:1"],
    ],
    ids=" ".join,
)
def test_no_usage_error_shows_a_password(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the URL is in the wrong place, has no scheme, or can't be parsed."""
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "PLANTED" not in result.stderr.replace("│\n│ ", "")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host/", "http://host/"),
        ("http://u:p@host/", "http://***@host/"),
        ("http://u:p/q@host:1/", "http://***@host:1/"),
        ("u:p@host", "***@host"),
    ],
)
def test_a_url_is_shown_without_what_may_be_credentials(url: str, expected: str) -> None:
    """All that is before its last @."""
    assert shown(url) == expected
    assert without_credentials(f"see '{url}', please") == f"see '{expected}', please"


def test_other_text_stays_as_it_is() -> None:
    """A mail address or a file's name is no URL with credentials."""
    for text in ("write to a@b.c", "/tmp/a@b: not found", "sink x: 3 posts, at 10:05"):
        assert without_credentials(text) == text


@pytest.mark.parametrize(("text", "is_url"), [("u:p@host", True), ("a.bin", False), ("a@b.bin", False), ("h:1/x", True)])
def test_what_lacks_only_its_scheme_is_taken_for_a_url(text: str, is_url: bool) -> None:
    """Otherwise it would be the name of a file, and shown as it is."""
    assert looks_like_url(text) is is_url
