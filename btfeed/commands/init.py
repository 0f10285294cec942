"""The command `btfeed init`."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from btfeed.commands.terminal import fail

STANDARD = Path("-")


def init(
    types: Annotated[
        Optional[list[str]],
        typer.Argument(metavar="TYPE", help="Types of sinks, such as kafka. By default: file."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The file to write, which must not exist; - is standard output."
        ),
    ] = Path("btfeed.toml"),
) -> None:
    """Write a configuration with a sink of each TYPE. It has all keys, with what they mean."""
    from btfeed.config.starter import references, starter  # slow to import, and not needed by every command
    from btfeed.delivery.sink_config import UnknownType

    try:
        text = starter(dict.fromkeys(types or ["file"]))
    except UnknownType as error:
        raise typer.BadParameter(str(error), param_hint="TYPE") from None
    if output == STANDARD:
        typer.echo(text, nl=False)
        return
    _write(output, text)
    typer.echo(f"wrote {output}")
    variables = references(text)
    if variables:
        typer.echo(f"fill in what it sets, and set {', '.join(variables)} in the environment")
    typer.echo(f"then run: btfeed check -c {output}")


def _write(path: Path, text: str) -> None:
    """Make the file. Ends the command if it exists: it may be in use."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        fail(f"{path} exists, and is left as it is: name another file with --output, or remove it first")
    except OSError as error:
        fail(f"can't write {path}: {error.strerror}")
