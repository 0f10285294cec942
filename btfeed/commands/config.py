"""The command `btfeed config`: shows the configuration that takes effect, and the JSON Schema of the file."""

import json
from typing import Annotated

import typer

from btfeed.commands.cli import App
from btfeed.commands.config_file import ConfigFile, described, load, refuse
from btfeed.telemetry.printable import printable

config = App(no_args_is_help=True, help="Show the configuration that takes effect, or the schema of the file.")


@config.command()
def show(
    path: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of TOML.")] = False,
) -> None:
    """Print every key with the value that takes effect. Secrets are not shown, and need not be there."""
    loaded = load(path, tolerant=True, name_missing=False)
    from btfeed.config.effective import effective, toml_lines  # slow to import, and not needed by every command
    from btfeed.config.loading import DEFAULT, NotRead
    from btfeed.toml_file import read_toml

    try:
        tables = effective(loaded, read_toml(path) if path else DEFAULT)
    except NotRead:  # for want of a reference that is more than a secret
        unresolved = loaded.unresolved.items()
        refuse(path, [f"{place}: {reason}" for place, reason in unresolved if not loaded.was_read(place)])
    if as_json:
        typer.echo(printable(json.dumps(tables, ensure_ascii=False)))
        return
    typer.echo(f"# {described(path)}")
    for place, reason in loaded.unresolved.items():
        typer.echo(printable(f"# {place}: {reason}"))
    typer.echo(printable("\n".join(["", *toml_lines(tables)]).rstrip()))


@config.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors that complete and check TOML."""
    from btfeed.config.schema import schema as json_schema  # slow to import, and not needed by every command

    typer.echo(json.dumps(json_schema(), ensure_ascii=False, indent=2))
