"""The command `btfeed init`."""

from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from btfeed.commands import units
from btfeed.commands.completion import sink_types
from btfeed.commands.terminal import fail

STANDARD = Path("-")


def init(
    types: Annotated[
        Optional[list[str]],
        typer.Argument(metavar="TYPE", autocompletion=sink_types, help="Types of sinks, such as kafka. By default: file."),
    ] = None,
    output: Annotated[
        Optional[Path],
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="The file to write, which must not exist; - is standard output. With --systemd, the directory. "
            "By default: btfeed.toml, in the current directory.",
            show_default=False,
        ),
    ] = None,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Write systemd units for this installation, with a configuration for them.")
    ] = False,
) -> None:
    """Write a configuration with a sink of each TYPE. It has all keys, with what they mean."""
    if systemd:
        if types:
            raise typer.BadParameter("with --systemd, the configuration is an example with files", param_hint="TYPE")
        _write_units(output or Path())
        return
    _write_configuration(types or ["file"], output or Path("btfeed.toml"))


def _write_units(directory: Path) -> None:
    """All files or none of them."""
    paths = {directory / name: text for name, text in units.render(units.this_command()).items()}
    for path in paths:
        if path.exists():
            _fail_to_overwrite(path)
    for path, text in paths.items():
        write_new(path, text)
        typer.echo(f"wrote {path}")
    typer.echo("docs/installing.md says where they go")


def _write_configuration(types: list[str], output: Path) -> None:
    from btfeed.config.starter import references, starter, to_replace  # slow to import, and not needed by every command
    from btfeed.delivery.sink_config import UnknownType

    try:
        text = starter(dict.fromkeys(types))
    except UnknownType as error:
        raise typer.BadParameter(str(error), param_hint="TYPE") from None
    if output == STANDARD:
        typer.echo(text, nl=False)
        return
    write_new(output, text)
    typer.echo(f"wrote {output}")
    variables = references(text)
    examples = to_replace(text)
    if examples:
        typer.echo(f"replace the example in {', '.join(examples)}")
    if variables:
        typer.echo(f"set in the environment: {', '.join(variables)}")
    typer.echo(f"then run: btfeed check -c {output}" if examples or variables else f"check it: btfeed check -c {output}")


def write_new(path: Path, text: str) -> None:
    """Make the file. Ends the command if it exists: it may be in use."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        _fail_to_overwrite(path)
    except OSError as error:
        fail(f"can't write {path}: {error.strerror}")


def _fail_to_overwrite(path: Path) -> NoReturn:
    fail(f"{path} exists, and is left as it is: choose another place with --output, or remove it first")
