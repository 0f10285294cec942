"""The table of what other programs have, in docs/comparison.md."""

import re
from pathlib import Path

PAGE = (Path(__file__).parent.parent / "docs" / "comparison.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
PAGES = dict(re.findall(r"^\[([a-z-]+)\]: (https://\S+)$", PAGE, re.MULTILINE))


def test_each_cell_about_another_program_links_to_its_documentation() -> None:
    """Or says that nothing was found there. The links are used, and dated together."""
    used = set()
    for name, _, *others in ROWS[1:]:
        for cell in others:
            found = re.fullmatch(r"\[(yes|partly|no)\]\[([a-z-]+)\][¹²]?([:,] .+)?", cell)
            assert found or cell in ("unknown", "not needed¹"), f"{name}: {cell}"
            used |= {found[2]} if found else set()
    assert used == PAGES.keys()
    assert re.search(r"looked up on \d{4}-\d{2}-\d{2}", PAGE.replace("\n", " "))


def test_each_cell_about_btfeed_links_to_what_it_says() -> None:
    """A section or a page of the documentation, which tests/test_docs.py looks for."""
    assert len(ROWS) > 20
    for name, own, *_ in ROWS[1:]:
        assert re.fullmatch(r"\[(yes|partly)\]\([a-z./]*(?:#[a-z-]+)?\)(, .+)?", own), f"{name}: {own}"
