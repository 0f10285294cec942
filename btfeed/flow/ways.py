"""The picture of the ways that flows took: steps from left to right, ways as bands, as thick as events went so.

Steps forward to the next are straight, those that pass steps over go above, steps back and repeats below. What is not in
the definition has a color of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from btfeed.flow.labels import label
from btfeed.flow.pictures import WIDTH
from btfeed.flow.report import Step, Transition
from btfeed.flow.words import number
from btfeed.page.svg import element, image, joined, titled
from btfeed.page.svg import number as coordinate
from btfeed.page.svg import words as text
from btfeed.page.wording import count

COLUMN, NODE = 170, 16
"""The least coordinates from step to step, and the width of a step."""
TALLEST, THICKEST, LOOP = 150.0, 30.0, 12.0
"""Of a step, of a way that goes back, and of one to the same step: a thick band can't turn."""
LABEL, FADE = 36.0, 64.0
"""The height of what stands above a step, and the length of what leaves it."""
LEAST = 1.5
"""Of a way."""
_KINDS = {"after": "on", "repeats": "loop", "back_to": "back", None: "odd"}
_FADE = Markup(
    '<defs><linearGradient id="ways-fade"><stop class="fade" offset="0"/><stop class="fade" offset="1" stop-opacity="0"/>'
    "</linearGradient></defs>"
)
_WORDS = {"after": "forward", "repeats": "again", "back_to": "back, as expected", None: "not in the definition"}


@dataclass(slots=True)
class _Node:
    """Where bands leave and enter: the next free place at either side."""

    x: float
    top: float
    height: float
    out: float = 0.0
    into: float = 0.0


def ways(steps: Sequence[Step], transitions: Sequence[Transition], headline: str = "Ways that flows took") -> Markup:
    """The picture. Ways with less than one event of 500 are left out: they could not be seen."""
    ranks = {step.name: rank for rank, step in enumerate(steps)}
    most = max((each.n for each in transitions), default=1)
    shown = [each for each in transitions if each.n * 500 >= most and each.begin in ranks and each.to in ranks]
    forward = [each for each in shown if ranks[each.to] > ranks[each.begin]]
    rest = [each for each in shown if ranks[each.to] <= ranks[each.begin]]
    volume = {
        step.name: max(step.reached, _sum(forward, "begin", step.name), _sum(forward, "to", step.name)) for step in steps
    }
    scale = TALLEST / max(1, *volume.values())
    column = WIDTH * stretch(len(steps)) / len(steps)
    nodes = _nodes(steps, volume, scale, column)
    picture = _Picture(nodes, ranks, scale, column)
    for each in sorted(forward, key=lambda each: (ranks[each.begin] - ranks[each.to], ranks[each.begin])):
        picture.forward(each)
    for step in steps:
        picture.leaving(step)
    for each in rest:
        picture.backward(each)
    for step in steps:
        picture.node(step)
    said = "; ".join(f"{each.begin} to {each.to}: {number(each.n)} ({_WORDS[each.way]})" for each in shown)
    top, bottom = picture.top - 8, picture.bottom + 8
    content = element("g", _FADE + joined(picture.parts), transform=f"translate(0 {coordinate(-top)})")
    return image(
        content, width=column * len(steps), height=bottom - top, id="ways", title=headline, text=said, style="picture ways"
    )


def stretch(steps: int) -> float:
    """How many times as wide as other pictures it is, for letters of the same size."""
    return max(1.0, COLUMN * steps / WIDTH)


def _sum(ways: Sequence[Transition], end: str, name: str) -> int:
    return sum(each.n for each in ways if getattr(each, end) == name)


def _nodes(steps: Sequence[Step], volume: Mapping[str, int], scale: float, column: float) -> dict[str, _Node]:
    """In a row, around y = 0."""
    nodes = {}
    for rank, step in enumerate(steps):
        height = max(volume[step.name] * scale, 2)
        nodes[step.name] = _Node(rank * column + column / 2 - NODE / 2, -height / 2, height)
    return nodes


class _Picture:
    """Collects what is drawn, and how high and deep it goes."""

    def __init__(self, nodes: Mapping[str, _Node], ranks: Mapping[str, int], scale: float, column: float) -> None:
        self.parts: list[Markup] = []
        self.top = self.bottom = 0.0
        self._nodes = nodes
        self._ranks = ranks
        self._scale = scale
        self._column = column

    def node(self, step: Step) -> None:
        node = self._nodes[step.name]
        box = element("rect", class_="node", x=node.x, y=node.top, width=NODE, height=node.height)
        middle = node.x + NODE / 2
        self.parts += [
            titled(box, f"{step.name}: {count(step.reached, 'flow')}, {count(step.visits, 'time')}"),
            label(step.name, self._column - 10, middle, node.top - 20, "middle"),
            text(number(step.reached), middle, node.top - 6, "small", "middle"),
        ]
        self._reaches(node.top - LABEL, node.top + node.height)

    def forward(self, way: Transition) -> None:
        """Straight to the next step, or above the labels of the steps that it passes over."""
        begin, to = self._nodes[way.begin], self._nodes[way.to]
        thick = max(way.n * self._scale, LEAST)
        x1, x2 = begin.x + NODE, to.x
        y1, y2 = begin.top + begin.out + thick / 2, to.top + to.into + thick / 2
        begin.out += thick
        to.into += thick
        first, last = self._ranks[way.begin] + 1, self._ranks[way.to]
        passed = [node for name, node in self._nodes.items() if first <= self._ranks[name] < last]
        if not passed:
            bend = (x2 - x1) / 2
            self._band(way, f"M{_point(x1, y1)}C{_point(x1 + bend, y1)} {_point(x2 - bend, y2)} {_point(x2, y2)}", thick)
            return
        high = min(node.top for node in passed) - LABEL - thick / 2 - 8 * len(passed)
        x = (x1 + x2) / 2
        rise = f"M{_point(x1, y1)}C{_point(x1 + 70, y1)} {_point(x1 + 50, high)} {_point(x, high)}"
        self._band(way, f"{rise}S{_point(x2 - 70, y2)} {_point(x2, y2)}", thick)
        self._reaches(high - thick / 2, 0)

    def leaving(self, step: Step) -> None:
        """Flows that dropped here: a band that fades."""
        if not step.dropped:
            return
        node = self._nodes[step.name]
        thick = min(max(step.dropped * self._scale, LEAST), node.height)
        x, y = node.x + NODE, node.top + node.height
        corners = " ".join((_point(x, y - thick), _point(x + FADE, y - thick), _point(x + FADE, y), _point(x, y)))
        fading = element("polygon", points=corners, fill="url(#ways-fade)")
        self.parts.append(titled(fading, f"{step.name}: {number(step.dropped)} dropped"))
        self.parts.append(text(f"{number(step.dropped)} left", x + 16, y + 15, "small gone"))
        self._reaches(0, y + 18)

    def backward(self, way: Transition) -> None:
        """Below the steps, the deeper the further it goes back."""
        begin, to = self._nodes[way.begin], self._nodes[way.to]
        back = self._ranks[way.begin] - self._ranks[way.to]
        thick = min(max(way.n * self._scale, LEAST), THICKEST)
        x1, x2 = begin.x + NODE / 2, to.x + NODE / 2
        y1, y2 = begin.top + begin.height, to.top + to.height
        if not back:
            low = y1 + 52
            path = f"M{_point(x1 - 4, y1)}C{_point(x1 - 58, y1 + 6)} {_point(x1 - 34, low + 14)} {_point(x1 - 3, y1 + 1)}"
            self._band(way, path, min(thick, LOOP))
            self.parts.append(text(number(way.n), x1 - 26, low + 4, "small", "middle"))
            self._reaches(0, low + 12)
            return
        low = max(node.top + node.height for node in self._nodes.values()) + 30 + 26 * back
        path = f"M{_point(x1, y1)}C{_point(x1, low + 14)} {_point(x2, low + 14)} {_point(x2, y2)}"
        self._band(way, path, thick)
        deepest = (y1 + 3 * (low + 14) + 3 * (low + 14) + y2) / 8
        self.parts.append(text(number(way.n), (x1 + x2) / 2, deepest + thick / 2 + 13, "small", "middle"))
        self._reaches(0, deepest + thick / 2 + 16)

    def _band(self, way: Transition, path: str, thick: float) -> None:
        band = element("path", class_=f"way {_KINDS[way.way]}", d=path, stroke_width=thick)
        self.parts.append(titled(band, f"{way.begin} to {way.to}: {number(way.n)} ({_WORDS[way.way]})"))

    def _reaches(self, top: float, bottom: float) -> None:
        self.top, self.bottom = min(self.top, top), max(self.bottom, bottom)


def _point(x: float, y: float) -> str:
    return f"{coordinate(x)},{coordinate(y)}"
