"""What makes a site of docs/ when MkDocs builds it (mkdocs.yml): pages and files of the repository that are not in docs/.

Pages link as they do in the repository, to `../CHANGELOG.md` or `../deploy/prometheus/prometheus.yml`. PAGES says where the
site has such a page. Any other file that is linked to is below `files/`, as it is. Links are changed to lead there.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {
    "readme.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "peers.md": "benchmarks/peers/README.md",
}
"""Pages of the site that are elsewhere in the repository."""

LINK = re.compile(r'(?P<before>\]\(|\b(?:src|srcset|href)=")(?P<target>[^)\s"#:]+)(?=[)#"])')
"""A link or picture whose target is a relative path: in Markdown, or in an attribute of HTML."""
_CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and the files that any page links to."""
    for uri, name in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    for page in files.documentation_pages():
        for target in _targets(page.src_uri, page.content_string):
            uri = uri_of(target)
            if uri.startswith("files/") and (ROOT / target).is_file() and uri not in files.src_uris:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that leave docs/ lead to what the site has in that place."""
    return rewritten(page.file.src_uri, markdown)


def rewritten(uri: str, markdown: str) -> str:
    """The text of a page of the site, with the links of the site."""
    folder = posixpath.dirname(uri)

    def link(match: "re.Match[str]") -> str:
        return match["before"] + posixpath.relpath(uri_of(_in_repository(uri, match["target"])), folder or ".")

    # Every second part is code, in which nothing is a link.
    parts = _CODE.split(markdown)
    parts[::2] = [LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def uri_of(path: str) -> str:
    """Where the site has a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return next((uri for uri, name in PAGES.items() if name == path), f"files/{path}")


def _targets(uri: str, markdown: str) -> set[str]:
    """Paths in the repository that a page links to."""
    prose = "".join(_CODE.split(markdown)[::2])
    return {_in_repository(uri, match["target"]) for match in LINK.finditer(prose)}


def _in_repository(uri: str, target: str) -> str:
    """What a page of the site links to, as a path that begins at the top of the repository."""
    source = PAGES.get(uri, f"docs/{uri}")
    return os.path.normpath(posixpath.join(posixpath.dirname(source), target))
