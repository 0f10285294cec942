"""The page of a report: its HTML and pictures, without a browser. tests/flow/test_browser.py looks at it in one."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from btfeed.flow import svg_files, words
from btfeed.flow.labels import width as labels_width
from btfeed.flow.page import render
from btfeed.flow.report import Report
from btfeed.flow.ways import ways
from tests.flow.samples import report, spread

UTC = ZoneInfo("UTC")
EVIL = "<b>&\"'</svg><script>alert(1)</script>\N{RIGHT-TO-LEFT OVERRIDE}"
LARGEST = 300_000


class Parsed(HTMLParser):
    """Elements, attributes and text of a page. open: elements that no end tag has closed."""

    VOID = {"meta", "br"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_it_is_one_file_without_script_or_request() -> None:
    """Well formed, and small."""
    html = render(report(), UTC)
    page = Parsed(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "action") or name.startswith("on")]
    assert not re.search(r"https?://|url\((?!#)|@import", html)
    assert len(html.encode()) < LARGEST


def test_the_pictures_are_svg_with_a_title() -> None:
    """And a description, for those who do not see them. Ids are unique."""
    html = render(report(), UTC)
    pictures = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
    assert len(pictures) == 3 + 6
    for picture in pictures:
        assert picture.get("role") == "img"
        assert picture.findtext("title")
        assert picture.findtext("desc")
    ids = [value for name, value in Parsed(html).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_it_has_the_numbers_of_the_report() -> None:
    """Of every step, part, list and change, written as the text report writes them."""
    found = report()
    shown = " ".join(Parsed(render(found, UTC)).text)
    figures = found.figures
    assert figures.value
    numbers = [
        words.number(figures.counts.started),
        words.percent(figures.conversion.rate),
        words.money(1_441_000.0, "EUR"),
    ]
    for step in figures.steps:
        numbers += [words.number(step.reached), words.percent(step.of_start), words.number(step.dropped)]
    for time in figures.times:
        numbers += [words.time(time.spread.median), words.time(time.spread.p95)]
    for parts in found.splits.values():
        numbers += [words.number(part.figures.counts.started) for part in parts]
    numbers += [flow.id for flows in found.lists.values() for flow in flows]
    numbers += [*found.notes, "+25.0 %", "+0.4 points (noise)", found.definition]
    assert [each for each in numbers if each not in shown] == []


def test_the_bars_of_the_funnel_are_as_long_as_their_numbers() -> None:
    """Went on, still here and dropped, one after the other."""
    html = render(report(), UTC)
    funnel = next(ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if 'id="funnel-t"' in svg)
    widths: dict[str, float] = {}
    for bar in funnel.iter("rect"):
        y = bar.get("y", "")
        widths[y] = widths.get(y, 0.0) + float(bar.get("width", ""))
    drawn = list(widths.values())
    steps = report().figures.steps
    for width, step in zip(drawn, steps, strict=True):
        assert abs(width / drawn[0] - step.reached / steps[0].reached) < 0.01


def test_what_records_say_is_text() -> None:
    """In names of flow, steps, parts and lists, which come from definitions and records, and in the pictures."""
    page = Parsed(render(with_evil(report()), UTC))
    assert page.open == []
    assert not {"script", "b"} & set(page.tags)
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in "".join(page.text)


def with_evil(found: Report) -> Report:
    """With EVIL wherever a text may be from elsewhere."""
    steps = tuple(replace(step, name=EVIL if not rank else step.name) for rank, step in enumerate(found.figures.steps))
    times = tuple(replace(time, name=EVIL) for time in found.figures.times)
    assert found.figures.value
    figures = replace(found.figures, steps=steps, times=times, value=replace(found.figures.value, label=EVIL, unit=EVIL))
    splits = {EVIL: tuple(replace(part, values=(EVIL,)) for part in found.splits["segment"])}
    lists = {name: tuple(replace(flow, id=EVIL, furthest=EVIL) for flow in flows) for name, flows in found.lists.items()}
    ways = tuple(
        replace(way, begin=EVIL if way.begin == "Calculator" else way.begin, flows=(EVIL,)) for way in found.transitions
    )
    return replace(found, flow=EVIL, figures=figures, splits=splits, lists=lists, transitions=ways, notes=(EVIL,))


def test_a_report_without_flows_has_a_page() -> None:
    """Nothing is divided by 0."""
    found = report()
    nothing = spread(0)
    steps = tuple(
        replace(step, reached=0, dropped=0, open=0, of_start=None, of_before=None, time=nothing)
        for step in found.figures.steps
    )
    times = tuple(replace(time, spread=nothing) for time in found.figures.times)
    figures = replace(found.figures, steps=steps, times=times)
    empty = replace(
        found,
        figures=figures,
        transitions=(),
        series=replace(found.series, rows=()),
        splits={},
        lists={},
        compare=None,
        notes=(),
    )
    assert Parsed(render(empty, UTC)).open == []


def test_ways_back_go_below_and_skips_above() -> None:
    """So that none hides another; the picture has room for all."""
    found = report()
    picture = ET.fromstring(ways(found.figures.steps, found.transitions))
    width, height = (float(each) for each in picture.get("viewBox", "").split()[2:])
    labels = {text.text: float(text.get("y", "")) for text in picture.iter("text")}
    shift = float(re.findall(r"-?[\d.]+", picture.find("g").get("transform", ""))[1])  # type: ignore[union-attr]
    assert all(0 <= y + shift <= height for y in labels.values())
    assert labels["60"] > labels["8,735 left"]
    assert width == 1080


def test_letters_of_ways_are_as_large_as_those_of_other_pictures() -> None:
    """However many steps there are: the picture is wider, in coordinates and on the page alike, and scrolls."""
    found = report()
    step, other = found.figures.steps[:2]
    for many, width in ((2, 1080), (6, 1080), (30, 170 * 30)):
        steps = (step, *(replace(other, name=f"step {rank}") for rank in range(1, many)))
        html = render(replace(found, figures=replace(found.figures, steps=steps), transitions=()), UTC)
        assert re.findall(r'<svg class="picture ways" viewBox="0 0 (\d+) ', html) == [str(width)]
        assert re.findall(r'style="--stretch: ([\d.]+)"', html) == [f"{width / 1080:.3f}"]


def test_long_names_keep_their_beginning() -> None:
    """Cut by their width, so that wide letters do not leave the picture; the whole name is in the title."""
    found = report()
    for name, shown in (
        ("MANDATORY DOCUMENTS MWM", "MANDATORY DOCUM\N{HORIZONTAL ELLIPSIS}"),
        ("illicit little tills", "illicit little tills"),
    ):
        steps = tuple(replace(step, name=name) for step in found.figures.steps[:1])
        times = tuple(replace(time, name=name * 3) for time in found.figures.times)
        html = render(replace(found, figures=replace(found.figures, steps=steps, times=times), transitions=()), UTC)
        labels = re.findall(r'<g><title>([^<]*)</title><text [^>]*class="name">([^<]*)</text>', html)
        assert (name, shown) in labels
        assert all(whole.startswith(part.rstrip("\N{HORIZONTAL ELLIPSIS}")) for whole, part in labels)
        assert max(labels_width(part) for _, part in labels) <= 288


@pytest.mark.parametrize(
    ("unfinished", "hatched"),
    [([], []), ([0], [(0, 23.1)]), ([12, 13], [(530.8, 69.2)]), ([0, 1, 5], [(0, 69.2), (207.7, 46.2)])],
)
def test_unfinished_buckets_are_hatched(unfinished: list[int], hatched: list[tuple[float, float]]) -> None:
    """These and no others, wherever they are, in all six charts: a rise or a fall that is none would be seen."""
    found = report()
    rows = tuple(replace(row, unfinished=place in unfinished) for place, row in enumerate(found.series.rows))
    html = render(replace(found, series=replace(found.series, rows=rows)), UTC)
    for chart in range(6):
        drawn = re.findall(rf'<rect x="([^"]*)" y="0" width="([^"]*)" [^>]*fill="url\(#series-{chart}-hatch\)"', html)
        assert [(float(x), float(width)) for x, width in drawn] == hatched


def test_a_bucket_that_is_alone_is_hatched_as_a_whole() -> None:
    """It is the whole chart."""
    found = report()
    html = render(replace(found, series=replace(found.series, rows=found.series.rows[-1:]), compare=None), UTC)
    assert len(re.findall(r'<rect x="0" y="0" width="600" height="120" fill="url\(#series-\d-hatch\)"', html)) == 6


def refunded() -> Report:
    """With more refunds than sales in some buckets."""
    found = report()
    rows = tuple(
        replace(row, figures=replace(row.figures, value=replace(row.figures.value, won=563_527.0 - 200_000 * place)))  # type: ignore[type-var]
        for place, row in enumerate(found.series.rows[:5])
    )
    return replace(found, series=replace(found.series, rows=rows), compare=None)


def test_values_below_0_stay_in_their_box() -> None:
    """The axis has both edges and 0; the description has the values as the page writes them."""
    html = render(refunded(), UTC)
    assert '<span>600,000 EUR</span><span class="zero" style="--zero: 0.600">0</span><span>-400,000 EUR</span>' in html
    assert "5 buckets, the last one -236,473 EUR, at least -236,473 EUR, at most 563,527 EUR." in html
    for path in re.findall(r'<path class="line [^"]*" d="([^"]*)"', html):
        assert all(0 <= float(y) <= 120 for y in re.findall(r",([\d.-]+)", path)), path


def test_pictures_are_files_of_their_own(tmp_path: Path) -> None:
    """Well-formed, with the shapes of the page, the colors as they are, and nothing from elsewhere."""
    page = render(with_evil(report()), UTC)
    paths = svg_files.write(with_evil(report()), tmp_path / "new")
    assert [path.name for path in paths] == ["funnel.svg", "ways.svg", "times.svg"]
    for path in paths:
        content = path.read_text()
        root = ET.fromstring(content)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.attrib["width"]) > float(root.attrib["height"]) > 0
        assert content[content.index("<title") :].strip() in page
        assert "var(" not in content
        assert not re.findall("url\\((?!#)|href|<script|@import", content)
