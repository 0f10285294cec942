"""The site that is made of docs/: complete, with nothing from elsewhere, and the same as a forge shows."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from docs.hooks import PAGES, uri_of
from tests.support.harness import DEADLINE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SOURCES = {path.relative_to(ROOT / "docs").as_posix(): path for path in sorted((ROOT / "docs").rglob("*.md"))}
SOURCES |= {uri: ROOT / name for uri, name in PAGES.items()}
FORGE = MarkdownIt("commonmark").enable("table")
COUNTED = ("h1", "h2", "h3", "h4", "h5", "ul", "ol", "li", "td", "th", "pre", "code", "a", "strong", "em", "img")


class Elements(HTMLParser):
    """Elements of HTML, with their attributes; if it has an <article>, those in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(re.search(r"<article.*</article>", html, re.DOTALL)[0] if "<article" in html else html)  # type: ignore[index]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def build(config: Path, target: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(target)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs-site` does."""
    target = tmp_path_factory.mktemp("site")
    built = build(ROOT / "mkdocs.yml", target)
    assert built.returncode == 0, built.stderr
    assert "contains a link" not in built.stderr, built.stderr
    return target


def page_of(site: Path, uri: str) -> str:
    path = "index.html" if uri == "index.md" else f"{uri.removesuffix('.md')}/index.html"
    return (site / path).read_text(encoding="utf-8")


def test_it_has_every_page_and_finds_it(site: Path) -> None:
    """Those of docs/, and those from elsewhere in the repository; the search knows each."""
    for uri in SOURCES:
        assert page_of(site, uri)
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert found == {"" if uri == "index.md" else uri.removesuffix("md").rstrip(".") + "/" for uri in SOURCES}


def test_the_start_page_lists_what_the_navigation_has() -> None:
    """In the same order; only figures of other programs are reached from the page on benchmarks."""
    navigation = re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    tables = SOURCES["index.md"].read_text(encoding="utf-8").partition("## Start")[2]
    listed = [uri_of(os.path.normpath(f"docs/{target}")) for target in re.findall(r"\]\((\S+?\.md)\)", tables)]
    assert listed == [uri for uri in navigation if uri not in ("index.md", "readme.md", "peers.md")]


def test_it_asks_no_other_server(site: Path) -> None:
    """Pages load scripts, styles, fonts and pictures from the site alone, so it works without the internet."""
    for path in site.rglob("*.html"):
        for tag, attributes in Elements(path.read_text(encoding="utf-8").replace("<article", "<div")).found:
            loaded = attributes.get("src", "") + attributes.get("srcset", "")
            loaded += attributes.get("href", "") if tag == "link" else ""
            assert "//" not in loaded.replace("data:", ""), f"{path.relative_to(site)}: <{tag}> loads {loaded}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )['\"]?(?:https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_pictures_and_files_of_the_repository_are_in_it(site: Path) -> None:
    """As they are: what a page links to outside of docs/ is below files/."""
    for link, source in (
        ("files/deploy/prometheus/btfeed.rules.yml", ROOT / "deploy" / "prometheus" / "btfeed.rules.yml"),
        ("architecture.svg", ROOT / "docs" / "architecture.svg"),
    ):
        assert (site / link).read_bytes() == source.read_bytes()
    for uri in SOURCES:
        html = site / ("" if uri == "index.md" else uri.removesuffix(".md"))
        for tag, attributes in Elements(page_of(site, uri)).found:
            if tag == "img":
                assert (html / attributes["src"]).resolve().is_file(), attributes["src"]
                assert attributes["alt"], f"{uri}: {attributes['src']} needs a text for those who can't see it"


@pytest.mark.parametrize("uri", SOURCES)
def test_a_page_is_the_same_on_a_forge(uri: str, site: Path) -> None:
    """As many headings, list items, cells, blocks of code, links and pictures, whichever reads its Markdown."""
    shown = Elements(re.sub(r'<a class="headerlink".*?</a>|<a id="__code.*?</a>', "", page_of(site, uri))).found
    there = Elements(FORGE.render(SOURCES[uri].read_text(encoding="utf-8"))).found
    ours, forge = (Counter(tag for tag, _ in found if tag in COUNTED) for found in (shown, there))
    assert ours == forge


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    """So does one to a heading that is not there, and a page that the navigation lacks."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Start\n\n[a](missing.md) [b](#nothing) [c](other.md#nothing)\n")
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    config = f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nhooks: []\nnav: [index.md]\n"
    (tmp_path / "mkdocs.yml").write_text(config)
    built = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert built.returncode == 1
    for complaint in ("'missing.md'", "'#nothing'", "'other.md#nothing'", "other.md\n"):
        assert complaint in built.stderr, built.stderr
