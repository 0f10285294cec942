"""Charts of series: text that a page, or a file, can hold.

A chart stretches to the width that it gets, so it holds no text of its own but its title and description. Axes and legends
are for the page around it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from markupsafe import Markup

from btfeed.page.svg import element, image, joined, number, upper_edge

WIDTH, HEIGHT = 600, 120
"""Size of the coordinates. On the page, a chart is as wide as there is room."""


@dataclass(frozen=True, slots=True)
class Series:
    """Values at equal distances of time, oldest first; None where nothing is known. style: its class in the stylesheet."""

    name: str
    values: Sequence[float | None]
    style: str


def stacked(series: Sequence[Series], *, id: str, title: str, text: str) -> tuple[Markup, float]:
    """Bands on top of each other, and the value at the upper edge. All series have the same number of values.

    id: unique on the page. text: what the chart shows, for those who do not see it
    """
    totals = [_sum(values) for values in zip(*(each.values for each in series), strict=True)]
    top = upper_edge(max((total for total in totals if total is not None), default=0.0))
    content = [_grid(y * HEIGHT / 2) for y in range(3)]
    floors: list[float | None] = [None if total is None else 0.0 for total in totals]
    for each in series:
        ceilings = [
            None if floor_ is None else floor_ + (value or 0.0) for floor_, value in zip(floors, each.values, strict=True)
        ]
        path, edge = "", ""
        for run in _runs(ceilings):
            upper = [_point(index, len(totals), ceilings[index], top) for index in run]
            lower = [_point(index, len(totals), floors[index], top) for index in reversed(run)]
            path += f"M{'L'.join(upper + lower)}Z"
            edge += f"M{'L'.join(upper)}"
        content += [element("path", class_=f"band {each.style}", d=path), line(edge, each.style)]
        floors = ceilings
    return framed(content, id, title, text), top


def lines(
    series: Sequence[Series], *, id: str, title: str, text: str, above: Sequence[Markup] = ()
) -> tuple[Markup, float]:
    """Lines over each other, and the value at the upper edge; see `stacked`. above: drawn over them."""
    top = upper_edge(max((value for each in series for value in each.values if value is not None), default=0.0))
    content = [_grid(y * HEIGHT / 2) for y in range(3)]
    for each in series:
        points = [[_point(index, len(each.values), each.values[index], top) for index in run] for run in _runs(each.values)]
        content.append(line("".join(f"M{'L'.join(run)}" for run in points), each.style))
    return framed([*content, *above], id, title, text), top


def _grid(y: float) -> Markup:
    return element("line", class_="grid", x1=0, x2=WIDTH, y1=y, y2=y)


def line(path: str, style: str) -> Markup:
    return element("path", class_=f"line {style}", d=path)


def framed(content: Sequence[Markup], id: str, title: str, text: str) -> Markup:
    return image(joined(content), width=WIDTH, height=HEIGHT, id=id, title=title, text=text, style="chart", stretch=True)


def buckets(values: Sequence[float | None], number: int) -> list[float | None]:
    """At most `number` averages of neighbors, for a table beside a chart."""
    size = max(1, ceil(len(values) / number))
    return [_mean(values[start : start + size]) for start in range(0, len(values), size)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _runs(values: Sequence[float | None]) -> Iterator[list[int]]:
    """The indexes of values that follow each other without a gap. One that stands alone is doubled, so that it is seen."""
    run: list[int] = []
    for index, value in enumerate([*values, None]):
        if value is not None:
            run.append(index)
        elif run:
            yield run if len(run) > 1 else run * 2
            run = []


def _point(index: int, of: int, value: float | None, top: float) -> str:
    x = WIDTH * index / max(1, of - 1)
    y = HEIGHT * (1 - (value or 0.0) / top)
    return f"{number(x)},{number(y)}"
