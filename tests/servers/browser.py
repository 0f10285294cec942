"""Headless Chromium, as tests and the pictures of the documentation use it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

from tests.servers import installed
from tests.support.harness import DEADLINE, until

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser. It has no connection of its own to anywhere."""
    installed.demand("browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed.chromium(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A tab of a browser with cookies of its own, and what went wrong in it.

    errors     of the script, and what the browser refused because of the Content-Security-Policy
    dialogs    texts of alerts
    elsewhere  requests to other servers than that of the page
    """

    def __init__(
        self, browser: Browser, url: str, *, scheme: str = "light", phone: bool = False, script: bool = True
    ) -> None:
        self._context = browser.new_context(
            color_scheme="dark" if scheme == "dark" else "light",
            viewport=PHONE if phone else DESKTOP,  # type: ignore[arg-type]  # a TypedDict
            java_script_enabled=script,
        )
        self._context.set_default_timeout(DEADLINE * 500)
        self.page: Page = self._context.new_page()
        self.errors: list[str] = []
        self.dialogs: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self._said(message.text))
        self.page.on("dialog", self._alerted)
        parts = urlsplit(url)
        self._origin = f"{parts.scheme}://{parts.netloc}/"
        self.page.on("request", lambda request: self._requested(request.url))
        answer = self.page.goto(url)
        assert answer
        assert answer.status < 500, answer.text()

    def close(self) -> None:
        self._context.close()

    def __enter__(self) -> "Tab":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _alerted(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _said(self, text: str) -> None:
        if "Content Security Policy" in text:
            self.errors.append(text)

    def _requested(self, address: str) -> None:
        if not address.startswith((self._origin, "data:")):
            self.elsewhere.append(address)

    def wait(self, condition: str) -> None:
        """Until this JavaScript is true. Playwright's own way needs eval, which the page's policy forbids."""
        until(lambda: self.page.evaluate(condition), condition)

    def wait_for_text(self, selector: str, text: str) -> None:
        """Until one of the elements has it."""
        self.page.locator(selector, has_text=text).first.wait_for()

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window, once its styles are there."""
        self.page.wait_for_load_state()
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def violations(self) -> list[str]:
        """What axe-core objects to: rule, and the first element."""
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]

    def picture(self, path: Path, *, whole: bool = False) -> None:
        self.page.screenshot(path=path, full_page=whole, animations="disabled")
