"""Where `btfeed flow report` writes: standard output, a file, or a folder of files, and in which form."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import typer

from btfeed.commands.flow_options import FOLDERS, Format
from btfeed.commands.flow_source import say
from btfeed.commands.terminal import fail
from btfeed.posts.files import STANDARD, standard
from btfeed.telemetry.printable import lines

if TYPE_CHECKING:
    from btfeed.flow.definition import Definition
    from btfeed.flow.report import Report

SUFFIXES: dict[str, Format] = {
    ".html": "html", ".htm": "html", ".json": "json", ".txt": "text", "": "csv", ".csv": "csv", ".svg": "svg",
}  # fmt: skip
"""Endings of --out, and what is written there."""


@dataclass(frozen=True, slots=True)
class Output:
    """path: a file, with csv and svg a folder; None: standard output."""

    form: Format
    path: Path | None

    def files(self) -> tuple[Path, ...]:
        """Files that may be written, or removed, as far as they exist or have a name already."""
        if self.path is None:
            return ()
        return tuple(sorted(self.path.glob(f"*.{self.form}"))) if self.form in FOLDERS else (self.path,)

    def write(self, made: "Report", definition: "Definition") -> None:
        """Ends the command with status 1 if a file can't be written; all are as before then. Raises OSError if standard
        output can't."""
        zone = ZoneInfo(definition.timezone)
        if self.path is None:
            typer.echo(_shown(made, self.form, zone), nl=False)
            return
        from btfeed.flow import files, svg_files, tables

        try:
            if self.form in FOLDERS:
                for path in (tables if self.form == "csv" else svg_files).write(made, self.path):
                    say(f"wrote {path}")
                return
            files.replace({self.path: _shown(made, self.form, zone).encode()})
        except OSError as error:
            fail(f"can't write {error.filename or self.path}: {error.strerror}")
        say(f"wrote {self.path}")


def output(form: Format | None, out: str | None) -> Output:
    """What the options mean. Raises BadParameter."""
    if out == "":
        raise typer.BadParameter("is empty: name a file, a folder, or - for standard output", param_hint="--out")
    path = None if out is None or standard(Path(out)) == STANDARD else Path(out)
    if form in FOLDERS and path is None:
        raise typer.BadParameter(f"{form} needs a folder: add --out", param_hint="--format")
    if path is None:
        return Output(form or "text", None)
    suffix = path.suffix.lower()
    if form is None and suffix not in SUFFIXES:
        known = "a name that ends in .html, .json or .txt, one without an ending for a folder of CSV, or add --format"
        raise typer.BadParameter(f"{suffix} says of no format what to write: take {known}", param_hint="--out")
    form = form or SUFFIXES[suffix]
    if form in FOLDERS and suffix == f".{form}":
        raise typer.BadParameter(f"{form} is a folder of several files: give it a name without .{form}", param_hint="--out")
    return Output(form, path)


def _shown(made: "Report", form: Format, zone: ZoneInfo) -> str:
    """The document, of a form that is one."""
    from btfeed.flow import as_json, text

    if form == "json":
        return as_json.encode(as_json.as_json(made)).decode()
    if form == "html":
        from btfeed.flow.page import render  # slow to import, and not needed by every command

        return render(made, zone)
    return lines(text.report(made, zone)) + "\n"
