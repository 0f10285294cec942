"""The page in a browser, of a real server: what it shows, how it keeps up to date, and who can use it."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser

from btfeed.admin.events import MAX_READERS
from btfeed.page.page import MAX_ROWS
from btfeed.posts.bt_pb2 import BusinessTransactions
from btfeed.telemetry.wording import cut
from tests.servers.bizevents import API_TOKEN, BizeventsServer, Fault
from tests.servers.browser import Tab, chromium
from tests.support.harness import Server, until
from tests.support.posts import mixed, sample_purepath, sample_visit

pytestmark = pytest.mark.browser

Open = Callable[..., Tab]
TOKEN = "a-token-of-some-length"
HOSTILE = "<img src=x onerror=alert(1)>&\"'</script>"
RIGHT_TO_LEFT = "\u202eتجربة شراء"
LONG = "N" * 10_000
TRANSACTIONS = 10_000
HIDE = """hidden => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""
BEYOND_ITS_CARD = """[...document.querySelectorAll(".card > table")]
    .filter((table) => table.getBoundingClientRect().right > table.parentElement.getBoundingClientRect().right - 4)
    .map((table) => table.caption.textContent)"""
"""The tables that are wider than the card around them."""
WORST_PAGE = 1_000_000
"""Bytes that the page may have, whatever the names are."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Open]:
    """Opens a tab. At the end, none may have had an error, an alert, or a request to another server."""
    tabs: list[Tab] = []

    def opened(url: str, **options: Any) -> Tab:
        tabs.append(Tab(browser, url, **options))
        return tabs[-1]

    yield opened
    for tab in tabs:
        tab.close()
    assert [(tab.errors, tab.dialogs, tab.elsewhere) for tab in tabs] == [([], [], [])] * len(tabs)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has had names of every bad kind, of 10,000 transactions, and refused posts."""
    with Server(tmp_path_factory.mktemp("hostile")) as server:
        for names in ([f"transaction {number}" for number in range(TRANSACTIONS)], [HOSTILE, RIGHT_TO_LEFT, LONG]):
            assert server.post(_of_transactions(names))[0] == 200
        for name in (HOSTILE, RIGHT_TO_LEFT, LONG):
            post = BusinessTransactions.FromString(sample_visit())
            post.serverName = name
            assert server.post(post.SerializeToString())[0] == 200
        assert server.post(HOSTILE.encode())[0] == 400
        assert server.post(b"", f"/{HOSTILE}".replace(" ", "+"))[0] in (400, 404)
        until(lambda: server.status()["sinks"]["files"]["delivered"] == TRANSACTIONS + 6, "delivered")
        yield server


def _of_transactions(names: Sequence[str]) -> bytes:
    """A post with an occurrence of each business transaction."""
    post = BusinessTransactions()
    for name in names:
        one = BusinessTransactions.FromString(sample_purepath())
        one.businessTransactions[0].name = name
        post.MergeFrom(one)
    return post.SerializeToString()


def _now(occurrences: int) -> bytes:
    """A post that no sink considers too old."""
    return mixed(occurrences, start=round(time.time() * 1000))


def _with_dynatrace(url: str) -> str:
    return (
        f'[sinks.dynatrace]\ntype = "bizevents"\nurl = "{url}/e/env"\napi_token = "{API_TOKEN}"\n'
        '[sinks.dynatrace.delivery]\nretry_max = "1s"\n'
    )


def test_a_new_server_waits_and_then_shows_the_first_post(server: Server, open_tab: Open) -> None:
    """Without loading the page again."""
    tab = open_tab(server.admin_url)
    tab.wait_for_text("h1", "Waiting for the first post")
    tab.wait_for_text("#records", "No record yet")
    tab.wait_for_text("#connection", "Live")
    tab.page.evaluate("window.marker = 1")
    server.post(sample_visit())
    tab.wait_for_text("h1", "The feed is alive")
    tab.wait_for_text("#records tbody th", "btName")
    tab.wait_for_text("#sinks", "delivering")
    tab.wait_for_text("#categories", "visit")
    assert tab.page.evaluate("window.marker") == 1


def test_a_record_is_json_on_a_click_and_stays_open(server: Server, open_tab: Open) -> None:
    """While new ones arrive above it, more than the page shows. The filter shows one transaction only."""
    server.post(sample_purepath())
    tab = open_tab(server.admin_url)
    tab.wait_for_text("#records tbody th", "btName")
    tab.page.locator("#records summary").first.click()
    tab.wait_for_text("#records pre", '"event.name": "btName"')
    row = tab.page.locator("#records tr[id]").first.get_attribute("id")
    post = BusinessTransactions.FromString(sample_visit())
    post.businessTransactions[0].name = "checkout"
    server.post(post.SerializeToString())
    tab.wait_for_text("#records tbody th", "checkout")
    server.post(_of_transactions([f"other {number}" for number in range(MAX_ROWS)]))
    tab.wait(f"document.querySelectorAll('#records tbody tr').length == {MAX_ROWS + 1}")
    assert tab.page.locator(f"#{row} details").get_attribute("open") is not None
    tab.page.locator(f"#{row} summary").click()
    server.post(post.SerializeToString())
    tab.wait(f"!document.getElementById('{row}')")
    tab.page.get_by_label("Business transaction", exact=True).fill("checkout")
    tab.page.get_by_role("button", name="Filter").click()
    tab.wait("document.querySelectorAll('#records tbody tr').length == 1")
    tab.wait_for_text("#records tbody th", "checkout")


def test_a_sink_goes_down_and_comes_back(tmp_path: Path, open_tab: Open) -> None:
    """The page says so in words, with the error, and then that all is well again."""
    with BizeventsServer() as dynatrace, Server(tmp_path, _with_dynatrace(dynatrace.url)) as server:
        server.post(_now(3))
        tab = open_tab(server.admin_url)
        tab.wait_for_text("#sinks .badge", "delivering")  # once it is open, before it has had a post
        until(lambda: len(dynatrace.accepted) == 3, "the first post delivered")
        dynatrace.always = Fault(503, body="busy")
        server.post(_now(4))
        tab.wait_for_text("#sinks .badge", "not available")
        tab.wait_for_text(".problems", "Sink dynatrace")
        tab.wait_for_text("#sinks .note-box", "503")
        tab.wait_for_text(".fan .stop", "not available, 1 post behind")
        dynatrace.always = None
        tab.wait_for_text("#sinks .badge", "delivering")
        tab.wait("!document.querySelector('.problems')")
        assert len(dynatrace.accepted) == 7


def test_the_page_goes_on_after_a_restart(tmp_path: Path, open_tab: Open) -> None:
    """Meanwhile it says since when there is no answer, and keeps the last figures. It asks for a token that is new."""
    server = Server(tmp_path).keep_ports().start()
    tab = open_tab(server.admin_url)
    tab.wait_for_text("#connection", "Live")
    server.post(sample_visit())
    tab.wait_for_text("h1", "The feed is alive")
    server.stop()
    tab.wait_for_text("#connection", "No answer from btfeed since")
    assert re.search(r"since \d\d:\d\d:\d\d UTC\.", tab.page.locator("#connection").inner_text())
    assert tab.page.locator("h1").inner_text() == "The feed is alive"
    with server:
        tab.wait_for_text("#connection", "Live")
        tab.wait_for_text("h1", "Waiting for the first post")
    server.config.write_text(server.config.read_text().replace("[admin]\n", f'[admin]\ntoken = "{TOKEN}"\n'))
    with server:
        tab.page.get_by_label("Token").wait_for()
    tab.close()


def test_a_page_without_a_stream_asks_again_and_again(server: Server, open_tab: Open) -> None:
    """If as many pages are open as have streams, another one says how often it is updated. It gets a free stream."""
    with ExitStack() as streams:
        for _ in range(MAX_READERS):
            streams.enter_context(urlopen(f"{server.admin_url}/events"))
        tab = open_tab(server.admin_url)
        tab.wait_for_text("#connection", "Updated every 2 s")
        server.post(sample_visit())
        tab.wait_for_text("h1", "The feed is alive")
    tab.wait_for_text("#connection", "Live")


def test_dead_letters_are_retried_and_exported(tmp_path: Path, open_tab: Open) -> None:
    """With their reason and a sample. Those that are delivered are gone."""
    with BizeventsServer() as dynatrace, Server(tmp_path, _with_dynatrace(dynatrace.url)) as server:
        dynatrace.refuse = lambda event: "no such schema"
        server.post(_now(3))
        tab = open_tab(server.admin_url)
        tab.wait_for_text("#letters", "3 dead letters of sink dynatrace, refused")
        tab.wait_for_text("#letters .note-box", "no such schema")
        with tab.page.expect_download() as download:
            tab.page.get_by_role("link", name="Export refused of dynatrace").click()
        assert len(download.value.path().read_text().splitlines()) == 3
        dynatrace.refuse = lambda event: None
        tab.page.get_by_role("button", name="Retry refused of dynatrace").click()
        tab.wait_for_text("#letters-result", "3 dead letters are tried again")
        tab.wait_for_text("#letters .empty", "None.")
        assert len(dynatrace.accepted) == 3


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_the_token_opens_the_page(tmp_path: Path, open_tab: Open, script: bool) -> None:
    """A wrong one does not. The session ends with the button."""
    with Server(tmp_path, admin=f'token = "{TOKEN}"') as server:
        server.post(sample_visit())
        tab = open_tab(server.admin_url, script=script)
        assert tab.page.title() == "Sign in – btfeed"
        assert not script or tab.violations() == []
        tab.page.get_by_label("Token").fill("another")
        tab.page.keyboard.press("Enter")
        tab.page.get_by_role("alert").wait_for()
        assert not script or tab.violations() == []
        tab.page.get_by_label("Token").fill(TOKEN)
        tab.page.get_by_role("button", name="Sign in").click()
        tab.wait_for_text("h1", "The feed is alive")
        tab.wait_for_text("#connection", "Live" if script else "As of")
        tab.wait_for_text("#records tbody th", "btName")
        tab.page.get_by_role("button", name="Sign out").click()
        tab.page.get_by_label("Token").wait_for()


def test_everything_is_there_without_script(hostile: Server, open_tab: Open) -> None:
    """The browser gets the page again by itself. What needs a script is not there; a command is named instead."""
    tab = open_tab(hostile.admin_url, script=False)
    assert tab.page.locator("h1").inner_text() == "The feed is alive"
    assert tab.page.locator("svg.chart").count() >= 2
    assert tab.page.locator("#records tbody tr").count() >= 6
    assert tab.page.locator("#refused tbody tr").count() >= 1
    assert not tab.page.get_by_role("button", name=re.compile("Retry")).is_visible()
    assert tab.page.get_by_text("btfeed dead-letters retry").is_visible()
    assert tab.page.locator("meta[http-equiv=refresh]").count() == 1
    tab.page.locator("#records summary").first.click()
    assert tab.page.locator("#records pre").first.is_visible()


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_hostile_names_are_text_and_fit(hostile: Server, open_tab: Open, phone: bool) -> None:
    """Markup, 10,000 characters and 10,000 transactions: no alert, no other element, no wider page, and a bounded one."""
    tab = open_tab(hostile.admin_url, phone=phone)
    tab.wait_for_text("#connection", "Live")
    tab.wait_for_text("#violations", "more violations")
    assert tab.page.locator("img").count() == 0
    assert tab.overflow() == 0
    assert tab.page.evaluate(BEYOND_ITS_CARD) == []
    assert len(tab.page.content()) < WORST_PAGE
    for summary in tab.page.locator("summary").all()[:4]:
        summary.click()
    assert tab.overflow() == 0


@pytest.mark.parametrize("name", [HOSTILE, RIGHT_TO_LEFT, cut(LONG)], ids=["markup", "right-to-left", "long"])
def test_any_name_can_be_filtered(hostile: Server, open_tab: Open, name: str) -> None:
    """It is shown as it is, or its beginning, and its direction ends with it."""
    tab = open_tab(f"{hostile.admin_url}/?transaction=unknown")
    tab.wait_for_text("#records .empty", "No record of unknown")
    tab.page.get_by_label("Business transaction", exact=True).fill(name)
    tab.page.keyboard.press("Enter")
    tab.wait_for_text("#records tbody bdi", name[:90])
    assert tab.overflow() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_axe_finds_nothing(hostile: Server, open_tab: Open, scheme: str, phone: bool, tmp_path: Path) -> None:
    """In light and dark, wide and narrow, with everything opened."""
    tab = open_tab(hostile.admin_url, scheme=scheme, phone=phone)
    tab.wait_for_text("#connection", "Live")
    tab.page.evaluate("[...document.querySelectorAll('details')].slice(0, 8).forEach((each) => (each.open = true))")
    assert tab.violations() == []
    picture = tmp_path / f"{scheme}-{'phone' if phone else 'desktop'}.png"
    tab.picture(picture)
    assert picture.stat().st_size > 10_000


def test_it_is_used_by_keyboard(hostile: Server, open_tab: Open) -> None:
    """The first stop leads to the content, focus is seen everywhere and stays while the page changes."""
    tab = open_tab(hostile.admin_url)
    tab.wait_for_text("#connection", "Live")
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.textContent") == "To the content"
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate("document.activeElement.id") == "main"
    summary = tab.page.locator("#records summary").first
    summary.focus()
    tab.page.keyboard.press("Enter")
    assert tab.page.locator("#records pre").first.is_visible()
    assert tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    before = tab.page.locator("#connection").get_attribute("data-updates") or "0"
    tab.wait(f"document.getElementById('connection').dataset.updates > {before}")
    assert tab.page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_a_tab_that_nobody_sees_asks_for_nothing(server: Server, open_tab: Open) -> None:
    """It closes its stream, and goes on when it is seen again."""
    tab = open_tab(server.admin_url)
    tab.wait_for_text("#connection", "Live")
    until(lambda: server.status()["counts"]["viewers"] == 1, "a viewer")
    tab.page.evaluate(HIDE, True)
    until(lambda: server.status()["counts"]["viewers"] == 0, "no viewer")
    tab.page.evaluate(HIDE, False)
    until(lambda: server.status()["counts"]["viewers"] == 1, "a viewer again")
