"""Charts as SVG: text that a page, or a file, can hold. Colors come from a stylesheet, by class.

A chart stretches to the width that it gets, so it holds no text of its own but its title and description, which screen
readers read. Axes and legends are for the page around it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from markupsafe import Markup

WIDTH, HEIGHT = 600, 120
"""Size of the coordinates. On the page, a chart is as wide as there is room."""
_FRAME = Markup(
    '<svg class="chart" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img"'
    ' aria-labelledby="{id}-t {id}-d">'
    '<title id="{id}-t">{title}</title><desc id="{id}-d">{text}</desc>{content}</svg>'
)
_GRID = Markup('<line class="grid" x1="0" x2="{width}" y1="{y}" y2="{y}"/>')
_BAND = Markup('<path class="band {style}" d="{path}"/>')
_LINE = Markup('<path class="line {style}" d="{path}"/>')


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
    content = [_GRID.format(width=WIDTH, y=_number(y * HEIGHT / 2)) for y in range(3)]
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
        content += [_BAND.format(style=each.style, path=path), _LINE.format(style=each.style, path=edge)]
        floors = ceilings
    return _framed(Markup("").join(content), id, title, text), top


def _framed(content: Markup, id: str, title: str, text: str) -> Markup:
    return _FRAME.format(width=WIDTH, height=HEIGHT, id=id, title=title, text=text, content=content)


def upper_edge(value: float) -> float:
    """The next number of one or two round digits that is not less, such as 25 for 23; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(power * step for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * step >= value * (1 - 1e-9))


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
    return f"{_number(x)},{_number(y)}"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
