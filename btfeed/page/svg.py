"""SVG as text: elements, numbers, scales and the frame of an image. Colors come from a stylesheet, by class.

What is text in an image is escaped. Every image has a title and a description, which screen readers read.
"""

from collections.abc import Iterable
from math import floor, log10

from markupsafe import Markup, escape

from btfeed.telemetry.printable import printable

_IMAGE = Markup(
    '<svg class="{style}" viewBox="0 0 {width} {height}"{stretch} role="img" aria-labelledby="{id}-t {id}-d">'
    '<title id="{id}-t">{title}</title><desc id="{id}-d">{text}</desc>{content}</svg>'
)
_STRETCH = Markup(' preserveAspectRatio="none"')
_ELEMENT = Markup("<{name}{attributes}>{content}</{name}>")
_EMPTY = Markup("<{name}{attributes}/>")
_ATTRIBUTE = Markup(' {name}="{value}"')
_HATCH = Markup(
    '<defs><pattern id="{id}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="hatch" width="2" height="6"/></pattern></defs>'
)


def image(
    content: Markup, *, width: float, height: float, id: str, title: str, text: str, style: str, stretch: bool = False
) -> Markup:
    """A whole image.

    id       unique on the page
    text     what it shows, for those who do not see it
    style    its class in the stylesheet
    stretch  whether it takes all the room that it gets; what is in it is stretched, too, so that it should hold no text
    """
    return _IMAGE.format(
        width=number(width), height=number(height), stretch=_STRETCH if stretch else "",
        id=id, title=_shown(title), text=_shown(text), style=style, content=content,
    )  # fmt: skip


def element(name: str, content: str | Markup = "", **attributes: str | float) -> Markup:
    """An element. Content that is not Markup is escaped. Of attributes, `_` stands for `-`, and one at the end is left out,
    as in class_="line"."""
    shown = Markup("").join(
        _ATTRIBUTE.format(name=key.rstrip("_").replace("_", "-"), value=value if isinstance(value, str) else number(value))
        for key, value in attributes.items()
    )
    if not content:
        return _EMPTY.format(name=name, attributes=shown)
    return _ELEMENT.format(name=name, attributes=shown, content=_shown(content))


def _shown(text: str | Markup) -> Markup:
    """Text of any origin, escaped, and without what would hide in the words around it, or turn them."""
    return text if isinstance(text, Markup) else escape(printable(text))


def words(text: str, x: float, y: float, style: str = "", anchor: str = "start") -> Markup:
    """Text. anchor: start, middle or end: which part of it is at `x`."""
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=style)


def titled(shape: Markup, title: str) -> Markup:
    """A shape with a text that browsers show when the pointer is over it."""
    return element("g", element("title", title) + shape)


def hatch(id: str) -> Markup:
    """Defines a pattern of slanting lines, for fill="url(#ID)"."""
    return _HATCH.format(id=id)


def joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def number(value: float) -> str:
    """A coordinate, with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")


def upper_edge(value: float) -> float:
    """The next number of one or two round digits that is not less, such as 25 for 23; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(power * step for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * step >= value * (1 - 1e-9))
