"""Names in pictures, cut to the width that there is.

What draws a picture chooses the font, so widths are those of a wide one: in others, a little room is left.
"""

from unicodedata import east_asian_width

from markupsafe import Markup

from btfeed.page.svg import element
from btfeed.page.svg import words as text
from btfeed.telemetry.printable import printable
from btfeed.telemetry.wording import CUT

SIZE = 13.0
"""Coordinates: the height of the letters of a name."""
_NARROW, _WIDEST = "ijlI.,:;'|!ftr()[] -/", "MWmw@%\N{HORIZONTAL ELLIPSIS}"


def label(name: str, room: float, x: float, y: float, anchor: str, after: str = "") -> Markup:
    """A name, or its beginning and an ellipsis, in `room` coordinates. The whole name is its title.

    after: follows it in any case
    """
    shown = fitting(printable(name), room - width(after)) + after
    return element("g", element("title", name) + text(shown, x, y, "name", anchor))


def fitting(name: str, room: float) -> str:
    """The name, or as much of its beginning as there is room for, and an ellipsis."""
    if width(name) <= room:
        return name
    left = room - width(CUT)
    for place, letter in enumerate(name):
        left -= width(letter)
        if left < 0:
            return name[:place].rstrip() + CUT
    return name


def width(text: str) -> float:
    """Coordinates that a text takes at most, in the semi-bold letters of names."""
    return SIZE * sum(map(_of_letter, text))


def _of_letter(letter: str) -> float:
    """Of the height."""
    if letter in _WIDEST or east_asian_width(letter) in "WF":
        return 1.05
    if letter in _NARROW:
        return 0.45
    return 0.8 if letter.isupper() or not letter.isascii() else 0.7
