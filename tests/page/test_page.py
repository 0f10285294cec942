"""The HTML of the page: what is in it, and what hostile names do to it."""

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from btfeed.page.page import HERE, MAX_ROWS, STATIC, login, render

EXAMPLE = json.loads((Path(__file__).parent.parent / "admin" / "snapshot.json").read_text())
HOSTILE = "<img src=x onerror=alert(1)>&\"'</script>"
MOST_LINES = 400


class _Elements(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def example() -> dict[str, Any]:
    return copy.deepcopy(EXAMPLE)


def _render(example: dict[str, Any], transaction: str = "") -> str:
    return render(example["status"], example["history"], example["records"], transaction, session=False)


def test_names_with_markup_are_text(example: dict[str, Any]) -> None:
    """No element and no attribute comes from a name; the page shows it as it is."""
    found = _Elements(_render(example, HOSTILE))
    assert not [tag for tag, _ in found.tags if tag == "img"]
    assert HOSTILE in found.text
    assert {
        name for _, attributes in found.tags for name in attributes if name.startswith("on") or name == "style"
    } == set()
    assert [attributes["value"] for _, attributes in found.tags if attributes.get("id") == "transaction"] == [HOSTILE]


def test_text_from_elsewhere_does_not_turn_the_words_around_it(example: dict[str, Any]) -> None:
    """What changes the direction of writing, or can't be seen, is an escape. Records have it as it is."""
    status = example["status"]
    status["sinks"]["search"] |= {"state": "unavailable", "text": "status 503: \u202eolleh", "last_error": "\u202eolleh"}
    status["sources"][0]["server"] = "zero\u200bwidth"
    text = _Elements(_render(example)).text
    assert "\u202eolleh" not in text
    assert text.count("\\u202eolleh") >= 3
    assert "zero\\u200bwidth" in text
    example["records"]["records"][0]["transaction"] = "\u202eolleh"
    assert "<bdi>\u202eolleh</bdi>" in _render(example)


def test_every_id_is_there_once_and_every_reference_leads_to_one(example: dict[str, Any]) -> None:
    """So links, labels and descriptions work, and the script finds what it updates."""
    found = _Elements(_render(example))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = ("aria-labelledby", "aria-describedby", "for", "list", "data-output")
    wanted = {word for _, a in found.tags for name in named for word in (a.get(name) or "").split()}
    wanted |= {href[1:] for tag, a in found.tags if tag == "a" and (href := a["href"] or "").startswith("#")}
    assert wanted - set(ids) == set()


@pytest.mark.slow
def test_thousands_of_names_are_bounded(example: dict[str, Any]) -> None:
    """10,000 transactions, servers, sinks and dead letters of 10,000 characters each make a page of less than 2 MB."""
    name = "N" * 10_000
    status = example["status"]
    status["violations"] = [
        {"transaction": f"{n}{name}", "field": name, "rule": "missing", "count": 1} for n in range(10_000)
    ]
    status["sources"] = [status["sources"][0] | {"server": f"{n}{name}"} for n in range(10_000)]
    status["refusals"] = [status["refusals"][0] | {"last_error": name, "reason": f"r{n}"} for n in range(10_000)]
    status["tls_failures"] = [status["tls_failures"][0] | {"error": name} for _ in range(10_000)]
    status["dead_letters"] = [status["dead_letters"][0] | {"reason": f"r{n}"} for n in range(10_000)]
    status["sinks"] = {f"{n}{name}": status["sinks"]["search"] | {"last_error": name, "text": name} for n in range(1_000)}
    record = example["records"]["records"][0]
    record |= {"transaction": name, "record": {name: name}}
    example["records"]["records"] = [record | {"id": str(n)} for n in range(10_000)]
    html = _render(example)
    assert len(html) < 2_000_000
    assert html.count('id="record-') == MAX_ROWS


def test_without_the_right_to_see_them_there_are_no_records_and_no_buttons(example: dict[str, Any]) -> None:
    """Nor the configuration."""
    example["status"]["configuration"] = None
    for kept in example["status"]["dead_letters"]:
        kept["sample"] = None
    example["records"] = None
    html = _render(example)
    assert "data-post" not in html
    assert "/dead-letters/export" not in html
    assert "Records are shown on this machine only" in html


def test_a_new_server_says_what_to_do(example: dict[str, Any]) -> None:
    """Each section has words for nothing."""
    status = example["status"]
    status |= {
        "last_post_time": None,
        "sources": [],
        "more_sources": 0,
        "refusals": [],
        "tls_failures": [],
        "violations": [],
    }
    status |= {"more_violations": 0, "dead_letters": [], "sinks": {}}
    status["counts"]["occurrences"] = {}
    example["records"]["records"] = []
    text = " ".join(_Elements(_render(example)).text.split())
    for words in (
        "Waiting for the first post",
        "AppMon posts to http://0.0.0.0:4321/",
        "No server has posted since the start.",
        "No sink is configured",
        "No request has been refused.",
        "No occurrence breaks a rule.",
        "None. Everything that was accepted has been delivered",
        "No record yet.",
    ):
        assert words in text
    status["dead_letters"] = None
    assert "The journal did not say in time what it keeps." in _render(example)


def test_the_login_form_says_why_a_token_is_not_taken() -> None:
    """To all readers: the input refers to the error."""
    assert "aria-invalid" not in login("0.1.0")
    found = _Elements(login("0.1.0", "<that is not the token>"))
    assert "<that is not the token>" in found.text
    assert [attributes["aria-describedby"] for tag, attributes in found.tags if tag == "input"] == ["error"]


def test_the_page_is_self_contained(example: dict[str, Any]) -> None:
    """Script and stylesheet are two files of a few hundred lines. No address leads to another server."""
    found = _Elements(_render(example))
    assert [tag for tag, attributes in found.tags if tag == "script"] == ["script"]
    links = [value for _, a in found.tags for name in ("src", "href", "action") if (value := a.get(name))]
    assert [link for link in links if not link.startswith(("/", "#", "data:"))] == []
    for name in STATIC:
        text = (HERE / "static" / name).read_text()
        assert len(text.splitlines()) < MOST_LINES
        assert "http" not in text
