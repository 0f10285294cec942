"""Charts as SVG: their form, their edges, and what is missing."""

import xml.etree.ElementTree as ET

import pytest

from btfeed.page.charts import HEIGHT, WIDTH, Scale, Series, buckets, lines, scale, stacked
from btfeed.page.svg import upper_edge

NAMESPACE = "{http://www.w3.org/2000/svg}"


def _paths(svg: str, kind: str) -> list[str]:
    return [path.get("d", "") for path in ET.fromstring(svg).iter("path") if (path.get("class") or "").startswith(kind)]


def test_a_line_goes_from_edge_to_edge() -> None:
    """The first value is at the left, the last one at the right, the upper edge at the top."""
    svg, top = stacked([Series("posts", (0.0, 10.0), "series-1")], id="x", title="Posts", text="Up to 10.")
    assert top == 10
    assert _paths(svg, "line") == [f"M0,{HEIGHT}L{WIDTH},0"]


def test_what_is_not_known_is_a_gap() -> None:
    """And a value between two gaps is still drawn."""
    svg, _ = stacked([Series("posts", (1.0, 1.0, None, 1.0, None), "series-1")], id="x", title="Posts", text="")
    assert _paths(svg, "line") == ["M0,0L150,0M450,0L450,0"]


def test_series_stand_on_each_other() -> None:
    """The upper edge is that of their sum, and a value that one of them lacks is none."""
    series = [Series("visits", (1.0, 2.0), "series-1"), Series("purepaths", (3.0, None), "series-2")]
    svg, top = stacked(series, id="x", title="Occurrences", text="")
    assert top == 4
    assert _paths(svg, "line") == ["M0,90L600,60", "M0,0L600,60"]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((), Scale(0, 1, 2)),
        ((0.0, 23.0), Scale(0, 25, 2)),
        ((500.0, -5.0), Scale(-200, 600, 4)),
        ((-900.0, 100.0), Scale(-900, 300, 4)),
        ((-3.0, -1.0), Scale(-3, 0, 3)),
    ],
)
def test_a_scale_has_room_for_values_below_0(values: tuple[float, ...], found: Scale) -> None:
    """Its lines are at equal distances, and 0 is on one of them."""
    assert scale(values) == found


def test_lines_of_values_below_0_stay_in_their_box() -> None:
    """Those of the compared series, too."""
    series = [Series("before", (-900.0, None), "before"), Series("now", (300.0, -300.0), "series-1")]
    svg, axis = lines(series, id="x", title="Won", text="")
    assert axis == Scale(-900, 300, 4)
    assert _paths(svg, "line") == [f"M0,{HEIGHT}L0,{HEIGHT}", "M0,0L600,60"]


def test_it_is_an_image_with_a_title_and_a_description() -> None:
    """Which are text, whatever they hold."""
    root = ET.fromstring(stacked([Series("a", (), "series-1")], id="x", title="<b>&\"'", text="</desc>")[0])
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "x-t x-d"
    assert [(child.get("id"), child.text) for child in list(root)[:2]] == [("x-t", "<b>&\"'"), ("x-d", "</desc>")]


@pytest.mark.parametrize(
    ("value", "edge"),
    [(0, 1), (-1, 1), (0.3, 0.3), (1, 1), (23, 25), (100, 100), (101, 120), (9_999, 10_000), (1e15, 1e15)],
)
def test_the_upper_edge_is_a_round_number(value: float, edge: float) -> None:
    """The next one that is not less."""
    assert upper_edge(value) == pytest.approx(edge)


def test_a_table_has_averages_of_what_is_known() -> None:
    """One for each piece of the series, None where nothing is known."""
    assert buckets([1.0, 3.0, None, 5.0, None, None, 7.0], 4) == [2.0, 5.0, None, 7.0]
    assert buckets([], 4) == []
