"""The pictures of a report as SVG files, for a document or a slide: whole by themselves, in the light colors of the page.

What draws SVG outside of browsers knows no variables of stylesheets, so colors stand in the files as they are.
"""

import re
from pathlib import Path

from markupsafe import Markup

from btfeed.flow import files
from btfeed.flow.page import HERE, STYLE, targets
from btfeed.flow.pictures import funnel, times
from btfeed.flow.report import Report
from btfeed.flow.ways import ways

_VARIABLE, _USE = re.compile(r"(--[\w-]+): ([^;]+);"), re.compile(r"var\((--[\w-]+)\)")
_HEAD = 2**12
"""Bytes of a file within which the class of a picture is."""
_RULE = re.compile(r"^\.picture.*\}$", re.MULTILINE)


def pictures(report: Report) -> dict[str, str]:
    """Name of a picture -> the content of its file."""
    figures = report.figures
    drawn = {
        "funnel": funnel(figures),
        "ways": ways(figures.steps, report.transitions),
        "times": times(figures.times, targets(figures)),
    }
    style = _style()
    return {name: _whole(picture, style) for name, picture in drawn.items() if picture}


def write(report: Report, folder: Path) -> list[Path]:
    """Write the files, all or none, and return their paths. Raises OSError, so for a file of such a name that is none of
    these pictures."""
    contents = {folder / f"{name}.svg": content.encode() for name, content in pictures(report).items()}
    with files.alone(folder):
        files.replace_own(contents, _is_picture)
    return list(contents)


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        return b'class="picture ' in file.read(_HEAD)


def _whole(picture: Markup, style: str) -> str:
    """An image of the page with the style that the page gives it, and its size."""
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', picture)[0]
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" style="background: #fff" '
    head, close, rest = picture.removeprefix("<svg ").partition(">")
    return f"{begin}{head}{close}<style>{style}</style>{rest}\n"


def _style() -> str:
    """The rules of pictures, with the colors of a light page."""
    page = STYLE.read_text(encoding="utf-8")
    own = (HERE / "templates" / "flow.css").read_text(encoding="utf-8")
    light = page[: page.index("@media")] + own[: own.index("@media")]
    colors = dict(_VARIABLE.findall(light))
    return "\n".join(_USE.sub(lambda use: colors[use[1]], rule) for rule in _RULE.findall(own))
