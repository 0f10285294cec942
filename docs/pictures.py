"""Makes the pictures of the page at / of the admin listener, docs/images/page-*.png, and of a flow, docs/images/flow-*.png.

    .venv/bin/python -m docs.pictures [--minutes 10] [--flows] [DIRECTORY]

It starts btfeed with two sinks, simulates a web shop for some minutes, so that the charts have something to show, and takes
the pictures in headless Chromium. It needs Chromium (make servers). For a little while, one of the sinks is away. With
--flows, it only makes those of a flow, of generated loan applications.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from btfeed.flow.definition import shipped
from tests.servers.bizevents import API_TOKEN, BizeventsServer, Fault
from tests.servers.browser import Tab, chromium
from tests.support.harness import BTFEED, Server

IMAGES = Path(__file__).parent / "images"
LARGEST = 200_000
"""Bytes of a picture."""
COLORS = 128
CONFIG = """
[sinks.archive]
type = "file"
directory = "{directory}/archive"

[sinks.dynatrace]
type = "bizevents"
url = "{url}/e/env"
api_token = "{token}"

[sinks.dynatrace.delivery]
retry_max = "2s"
"""
FLOW_PICTURES = {
    "funnel": "How far flows came",
    "ways": "Ways that they took",
    "times": "Times between steps",
    "series": "Over time",
    "splits": "Splits",
}
"""Parts of the page of a report, by their headings."""
PICTURES = {"page-light": {}, "page-dark": {"scheme": "dark"}, "page-phone": {"phone": True}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--flows", action="store_true", help="only the pictures of a flow")
    parser.add_argument("directory", type=Path, nargs="?", default=IMAGES)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    _flows(arguments.directory)
    if not arguments.flows:
        _admin(arguments.directory, arguments.minutes)


def _admin(pictures: Path, minutes: float) -> None:
    with tempfile.TemporaryDirectory() as name, BizeventsServer() as dynatrace:
        directory = Path(name)
        config = CONFIG.format(directory=directory, url=dynatrace.url, token=API_TOKEN)
        with Server(directory, config) as server:
            load = [
                *BTFEED,
                "generate",
                "web-shop",
                server.url,
                "--rate",
                "25",
                "--time-scale",
                "30",
                "--log-level",
                "ERROR",
            ]
            generate = subprocess.Popen(load, stdout=subprocess.DEVNULL)
            try:
                _live(dynatrace, minutes * 60)
                _take(server.admin_url, pictures)
            finally:
                generate.terminate()
                generate.wait()


def _live(dynatrace: BizeventsServer, seconds: float) -> None:
    """An ordinary day in a short time. The stand-in keeps no events meanwhile."""
    for away in (False, True, False):
        dynatrace.always = Fault(503, body="maintenance") if away else None
        end = time.monotonic() + seconds * (0.1 if away else 0.45)
        while time.monotonic() < end:
            time.sleep(1)
            dynatrace.accepted.clear()
            dynatrace.requests.clear()


def _take(url: str, directory: Path) -> None:
    with chromium() as browser:
        for name, options in PICTURES.items():
            path = directory / f"{name}.png"
            with Tab(browser, url, **options) as tab:  # type: ignore[arg-type]
                tab.wait_for_text("#connection", "Live")
                tab.picture(path)
            _shrink(path)


def _flows(pictures: Path) -> None:
    """The page of a report, and its pictures one by one. The commands are those of docs/flow.md."""
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        posts, page, definition = (str(Path(name) / each) for each in ("loans.btposts.gz", "loans.html", "loans.toml"))
        Path(definition).write_text(
            shipped()["loan-application"].replace("repeats = true", 'repeats = true\ntarget = "20h"')
        )
        generate = ["loan-application", "--since", "2026-03-01", "--until", "2026-03-29", "--seed", "1", "--out", posts]
        report = [definition, posts, "--last", "14d", "--split", "segment", "--out", page]
        for command in (["generate", *generate], ["flow", "report", *report]):
            subprocess.run([*BTFEED, *command], check=True, stdout=subprocess.DEVNULL)
        for scheme in ("light", "dark"):
            with Tab(browser, Path(page).as_uri(), scheme=scheme) as tab:
                tab.picture(path := pictures / f"flow-{scheme}.png")
                _shrink(path)
                for picture, heading in FLOW_PICTURES.items() if scheme == "light" else ():
                    section = (
                        tab.page.locator("section", has=tab.page.locator("h2", has_text=heading)).locator(".card").first
                    )
                    section.screenshot(path=(path := pictures / f"flow-{picture}.png"))
                    _shrink(path)


def _shrink(path: Path) -> None:
    """With fewer colors. Ends the program if it is still too large."""
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        sys.exit(f"{path} is larger than {LARGEST} bytes")
    print(path)


if __name__ == "__main__":
    main()
