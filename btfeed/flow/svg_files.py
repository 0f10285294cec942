"""The pictures of a report as SVG files, for a document or a slide: whole by themselves, in the light colors of the page.

What draws SVG outside of browsers knows no variables of stylesheets, so colors stand in the files as they are.
"""

import re
from pathlib import Path

from markupsafe import Markup

from btfeed.flow.page import HERE, STYLE, targets
from btfeed.flow.pictures import funnel, times
from btfeed.flow.report import Report
from btfeed.flow.ways import ways

_VARIABLE, _USE = re.compile(r"(--[\w-]+): ([^;]+);"), re.compile(r"var\((--[\w-]+)\)")
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
    """Write the files, and return their paths. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in pictures(report).items():
        path = folder / f"{name}.svg"
        path.write_text(content, encoding="utf-8")
        written.append(path)
    return written


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
