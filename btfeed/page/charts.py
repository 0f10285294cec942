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


@dataclass(frozen=True, slots=True)
class Scale:
    """From the value at the lower edge to that at the upper one, in so many equal parts. 0 is at the end of one."""

    low: float
    high: float
    parts: int

    def y(self, value: float) -> float:
        """The coordinate of a value."""
        return HEIGHT * (self.high - value) / (self.high - self.low)


def scale(values: Sequence[float]) -> Scale:
    """One that all values are on. It begins at 0, unless some are below that."""
    low, high = min([0.0, *values]), max([0.0, *values])
    if low == 0:
        return Scale(0.0, upper_edge(high), 2)
    step = upper_edge(max(high, -low) / 3)
    below, above = ceil(-low / step), ceil(high / step)
    return Scale(-below * step, above * step, below + above)


def stacked(series: Sequence[Series], *, id: str, title: str, text: str) -> tuple[Markup, float]:
    """Bands on top of each other, and the value at the upper edge. All series have the same number of values.

    id: unique on the page. text: what the chart shows, for those who do not see it
    """
    totals = [_sum(values) for values in zip(*(each.values for each in series), strict=True)]
    axis = scale([total for total in totals if total is not None])
    content = _grid(axis)
    floors: list[float | None] = [None if total is None else 0.0 for total in totals]
    for each in series:
        ceilings = [
            None if floor_ is None else floor_ + (value or 0.0) for floor_, value in zip(floors, each.values, strict=True)
        ]
        path, edge = "", ""
        for run in _runs(ceilings):
            upper = [_point(index, len(totals), ceilings[index], axis) for index in run]
            lower = [_point(index, len(totals), floors[index], axis) for index in reversed(run)]
            path += f"M{'L'.join(upper + lower)}Z"
            edge += f"M{'L'.join(upper)}"
        content += [element("path", class_=f"band {each.style}", d=path), line(edge, each.style)]
        floors = ceilings
    return framed(content, id, title, text), axis.high


def lines(
    series: Sequence[Series], *, id: str, title: str, text: str, above: Sequence[Markup] = ()
) -> tuple[Markup, Scale]:
    """Lines over each other, and their scale; see `stacked`. above: drawn over them."""
    axis = scale([value for each in series for value in each.values if value is not None])
    content = _grid(axis)
    for each in series:
        points = [
            [_point(index, len(each.values), each.values[index], axis) for index in run] for run in _runs(each.values)
        ]
        content.append(line("".join(f"M{'L'.join(run)}" for run in points), each.style))
    return framed([*content, *above], id, title, text), axis


def _grid(axis: Scale) -> list[Markup]:
    heights = [HEIGHT * part / axis.parts for part in range(axis.parts + 1)]
    return [element("line", class_="grid", x1=0, x2=WIDTH, y1=y, y2=y) for y in heights]


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


def _point(index: int, of: int, value: float | None, axis: Scale) -> str:
    x = WIDTH * index / max(1, of - 1)
    return f"{number(x)},{number(axis.y(value or 0.0))}"
