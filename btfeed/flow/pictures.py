"""The pictures of the page: funnel, times, and series. The ways between steps are in ways.py."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from math import log10

from markupsafe import Markup

from btfeed.flow import words
from btfeed.flow.labels import label
from btfeed.flow.report import Figures, Series, Step, Time
from btfeed.flow.words import number, percent
from btfeed.page import charts
from btfeed.page.svg import element, hatch, image, joined, titled
from btfeed.page.svg import number as coordinate
from btfeed.page.svg import words as text
from btfeed.page.wording import count

WIDTH = 1080
"""Of pictures with text in them, in coordinates."""
_ROW, _BAR, _LEFT, _RIGHT = 46, 26, 190, 310
_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000
_AXIS = (
    (1, "1 ms"), (10, "10 ms"), (100, "100 ms"), (_SECOND, "1 s"), (5 * _SECOND, "5 s"), (15 * _SECOND, "15 s"),
    (_MINUTE, "1 min"), (5 * _MINUTE, "5 min"), (15 * _MINUTE, "15 min"), (_HOUR, "1 h"), (3 * _HOUR, "3 h"),
    (8 * _HOUR, "8 h"), (_DAY, "1 d"), (3 * _DAY, "3 d"), (7 * _DAY, "7 d"), (30 * _DAY, "30 d"), (100 * _DAY, "100 d"),
    (365 * _DAY, "1 year"), (3650 * _DAY, "10 years"),
)  # fmt: skip
"""Where the axis of times may have a line."""


def funnel(figures: Figures) -> Markup:
    """A bar for each step, as long as flows came there: those that went on, are still there, and left there.
    At a goal, those that converted, and those that came too late."""
    scale = (WIDTH - _LEFT - _RIGHT) / max(1, *(step.reached for step in figures.steps))
    parts = [_between(figures.steps, scale)]
    for row, step in enumerate(figures.steps):
        y = row * _ROW + 10
        went_on = step.reached - step.dropped - step.open - step.late
        style = "optional" if step.optional else "goal" if step.goal else ""
        further = " (optional)" if step.optional else ""
        parts.append(label(step.name, _LEFT - 16, _LEFT - 12, y + _BAR * 0.68, "end", further))
        x = float(_LEFT)
        for kind, what, flows in (
            (f"on {style}", "converted" if step.goal else "went on", went_on),
            ("late", "late", step.late),
            ("waits", "still here", step.open),
            ("left", "dropped here", step.dropped),
        ):
            if flows > 0:
                bar = element("rect", class_=kind, x=x, y=y, width=max(flows * scale, 1), height=_BAR)
                parts.append(titled(bar, f"{step.name}: {number(flows)} {what}"))
                x += flows * scale
        parts.append(text(number(step.reached), x + 10, y + 12, "figure"))
        parts.append(text(_shares(step), x + 10, y + 26, "small"))
    height = len(figures.steps) * _ROW + 6
    said = "; ".join(
        f"{step.name} {number(step.reached)}, of which {number(step.dropped)} dropped" for step in figures.steps
    )
    return image(
        joined(parts),
        width=WIDTH,
        height=height,
        id="funnel",
        title="How far flows came",
        text=said,
        style="picture funnel",
    )


def _between(steps: Sequence[Step], scale: float) -> Markup:
    """Shades from the end of a bar to that of the next, which is among those that went on."""
    shades = []
    for row, (step, later) in enumerate(pairwise(steps)):
        y = row * _ROW + 10 + _BAR
        right, below = _LEFT + step.reached * scale, _LEFT + later.reached * scale
        corners = f"{_LEFT},{y} {coordinate(right)},{y} {coordinate(below)},{y + _ROW - _BAR} {_LEFT},{y + _ROW - _BAR}"
        shades.append(element("polygon", class_="shade", points=corners))
    return joined(shades)


def _shares(step: Step) -> str:
    parts = [f"{percent(step.of_start)} of start"]
    if step.before:
        parts.append(f"{percent(step.of_before)} of before")
    if step.dropped:
        parts.append(f"{number(step.dropped)} dropped")
    if step.late:
        parts.append(f"{number(step.reached - step.late)} converted · {number(step.late)} late")
    if step.open:
        parts.append(f"{number(step.open)} open")
    return " · ".join(parts)


def times(found: Sequence[Time], targets: dict[tuple[str, str], float]) -> Markup:
    """A bar for each time, from its median to what 95 % are within. The axis is logarithmic: seconds and days fit on it.

    targets  (from, to) -> the time that is promised
    """
    shown = [time for time in found if time.spread.median is not None and time.spread.p95 is not None]
    ends = [max(1.0, each) for time in shown for each in (time.spread.median or 1, time.spread.p95 or 1)]
    ends += [max(1.0, targets[key]) for time in shown if (key := (time.begin, time.to)) in targets]
    low, high = log10(min(ends, default=1)) - 0.15, log10(max(ends, default=10)) + 0.15
    left, right = 300, 230

    def at(milliseconds: float) -> float:
        return left + (log10(max(1.0, milliseconds)) - low) / (high - low) * (WIDTH - left - right)

    bottom = len(shown) * 34 + 8
    parts = [
        element("line", class_="grid", x1=at(tick), x2=at(tick), y1=0, y2=bottom)
        + text(name, at(tick), bottom + 16, "small", "middle")
        for tick, name in _AXIS
        if low <= log10(tick) <= high
    ]
    for row, time in enumerate(shown):
        y = row * 34 + 20
        half, most = time.spread.median or 0.0, time.spread.p95 or 0.0
        said = f"half within {words.time(half)}, 95 % within {words.time(most)}"
        parts.append(label(time.name, left - 16, left - 12, y + 5, "end"))
        bar = element("line", class_="span", x1=at(half), x2=max(at(most), at(half) + 1), y1=y, y2=y)
        parts.append(
            titled(bar, f"{time.name}: {said}, average {words.time(time.spread.average)}, {count(time.spread.n, 'flow')}")
        )
        parts.append(element("circle", class_="half", cx=at(half), cy=y, r=6))
        if (target := targets.get((time.begin, time.to))) is not None:
            mark = element("line", class_="target", x1=at(target), x2=at(target), y1=y - 13, y2=y + 13)
            parts.append(titled(mark, f"promised: {words.time(target)}"))
        parts.append(text(said.replace(" within", ""), WIDTH - right + 14, y + 5, "small"))
    said = (
        "; ".join(f"{each.name}: half within {words.time(each.spread.median)}" for each in shown)
        or "No flow came from one step to another."
    )
    return image(
        joined(parts),
        width=WIDTH,
        height=bottom + 26,
        id="times",
        title="Times between steps",
        text=said,
        style="picture times",
    )


def multiple(
    name: str,
    title: str,
    now: Series,
    values: Sequence[float | None],
    earlier: Sequence[float | None],
    written: Callable[[float | None], str],
) -> tuple[Markup, charts.Scale]:
    """The course of one number, over that of the compared period in grey, and its scale. Unfinished buckets are hatched.

    values, earlier  of each bucket, and of that of the compared period
    written          how one of them is written
    """
    lines = [charts.Series("now", values, "series-1")]
    if earlier:
        lines.insert(0, charts.Series("before", earlier, "before"))
    above = [hatch(f"{name}-hatch")]
    for left, right in _unfinished(now):
        x, width = charts.WIDTH * left, charts.WIDTH * (right - left)
        above.append(element("rect", x=x, y=0, width=width, height=charts.HEIGHT, fill=f"url(#{name}-hatch)"))
    known = [value for value in values if value is not None]
    said = "Nothing is known."
    if known:
        least, most = written(min(known)), written(max(known))
        said = f"{count(len(values), 'bucket')}, the last one {written(values[-1])}, at least {least}, at most {most}."
    return charts.lines(lines, id=name, title=title, text=said, above=above if len(above) > 1 else ())


def _unfinished(series: Series) -> Iterator[tuple[float, float]]:
    """Where unfinished buckets are between 0 and 1, those beside each other together. The first is around 0, the last is
    around 1."""
    last = len(series.rows) - 1
    for unfinished, group in groupby(enumerate(series.rows), lambda each: each[1].unfinished):
        places = [place for place, _ in group]
        if unfinished:
            yield (places[0] - 0.5) / last if places[0] else 0.0, (places[-1] + 0.5) / last if places[-1] < last else 1.0
