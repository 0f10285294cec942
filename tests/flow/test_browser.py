"""The page of a report in a browser: light, dark, on a phone and on paper."""

import re
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser

from btfeed.flow.page import render
from tests.flow.samples import report
from tests.flow.test_page import refunded, with_evil
from tests.servers.browser import Tab, chromium

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def test_it_is_readable_everywhere(browser: Browser, tmp_path: Path) -> None:
    """By axe's rules in both schemes; nothing is wider than the window, and nothing is asked for."""
    path = tmp_path / "page.html"
    for made in (report(), with_evil(report()), refunded()):
        path.write_text(render(made, ZoneInfo("UTC")))
        for options in ({}, {"scheme": "dark"}, {"phone": True}):
            with Tab(browser, path.as_uri(), **options) as tab:
                assert tab.violations() == []
                assert tab.overflow() == 0
                assert tab.elsewhere == tab.errors == tab.dialogs == []


def test_it_prints_on_two_pages(browser: Browser, tmp_path: Path) -> None:
    """Whatever the scheme: pictures, then tables."""
    path = tmp_path / "page.html"
    path.write_text(render(report(), ZoneInfo("UTC")))
    with Tab(browser, path.as_uri(), scheme="dark") as tab:
        tab.page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())) == 2


def test_lines_of_refunds_stay_in_their_chart(browser: Browser, tmp_path: Path) -> None:
    """Below the line of 0, whose number stands beside it."""
    path = tmp_path / "page.html"
    path.write_text(render(refunded(), ZoneInfo("UTC")))
    with Tab(browser, path.as_uri()) as tab:
        charts = tab.page.locator(".multiples .chart")
        for chart, line in ((charts.nth(place), charts.nth(place).locator(".line")) for place in range(charts.count())):
            box, drawn = chart.bounding_box(), line.bounding_box()
            assert box
            assert drawn
            assert box["y"] - 2 <= drawn["y"] <= drawn["y"] + drawn["height"] <= box["y"] + box["height"] + 2
        box, zero = charts.nth(2).bounding_box(), tab.page.locator(".zero").bounding_box()
        assert box
        assert zero
        assert abs(zero["y"] + zero["height"] / 2 - box["y"] - 0.6 * box["height"]) < 2
