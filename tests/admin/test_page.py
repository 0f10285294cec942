"""The page at / as the admin listener answers it: to whom it shows what, and its headers. Its contents: tests/page."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from btfeed.page.page import render
from tests.support.harness import DEADLINE, Server
from tests.support.posts import sample_visit

EXAMPLE = json.loads((Path(__file__).parent / "snapshot.json").read_text())
TOKEN = "a-token-of-some-length"


def _get(server: Server, path: str = "/", **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of the answer. Underscores in names of `headers` stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(server.admin_url + path, headers=named), timeout=DEADLINE
        ) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js"])
def test_nothing_but_its_own_files_may_run_and_nothing_is_kept(server: Server, path: str) -> None:
    """A browser may load script and style from this server alone, show the page in no frame, and store nothing."""
    status, _, headers = _get(server, path)
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")


def test_other_machines_see_figures_only(server: Server) -> None:
    """No record, no configuration, no button, unless there is a token. A proxy stands for another machine."""
    server.post(sample_visit())
    server.delivered(1)
    own, other = _get(server)[1], _get(server, X_Forwarded_For="192.0.2.1")[1]
    assert str(server.directory) in own
    assert str(server.directory) not in other
    assert "The feed is alive" in other
    assert "/dead-letters" not in other
    assert "Records are shown on this machine only" in other


def test_with_a_token_there_is_a_form_instead_of_the_page(tmp_path: Path) -> None:
    """With status 401. It says so if a token was wrong. The right one in a header needs no form."""
    with Server(tmp_path, admin=f'token = "{TOKEN}"') as server:
        status, text, _ = _get(server)
        assert (status, "Sign in to btfeed" in text, "This is not the token" in text) == (401, True, False)
        assert "This is not the token" in _get(server, "/?wrong=token")[1]
        assert "Waiting for the first post" in _get(server, Authorization=f"Bearer {TOKEN}")[1]
        assert _get(server, "/page.css")[0] == 200


def test_without_the_words_of_a_destination_the_page_says_which_one_takes_nothing() -> None:
    """Other machines get null for them. The column beside records says no more than that sinks were passed them."""
    sink = EXAMPLE["status"]["sinks"]["search"]
    blocked = [{"destination": "topic b", "reason": None, "since": 1, "waiting": 3}]
    sinks = {"search": sink | {"last_error": None, "blocked": blocked, "blocked_destinations": 1}}
    html = render(EXAMPLE["status"] | {"sinks": sinks}, EXAMPLE["history"], EXAMPLE["records"], "", session=False)
    assert "3 records waiting</p>" in html
    assert "Last error" not in html
    assert '<th scope="col">Passed to</th>' in html
