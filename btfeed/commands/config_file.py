"""The --config option that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from btfeed.commands.terminal import count, fail
from btfeed.faults import ConfigError

if TYPE_CHECKING:
    from btfeed.config import Config

ConfigFile = Annotated[
    Optional[Path],
    typer.Option("-c", "--config", help="Configuration file (TOML). By default, records go to files in ./btfeed-data."),
]


def load(path: Path | None) -> "Config":
    """The configuration in `path`, or the default one. Exits with status 2 if it has faults, and prints its warnings."""
    from btfeed import config as configuration  # slow to import, and not needed by every command

    try:
        loaded = configuration.load(path)
    except ConfigError as error:
        what = path or "the default configuration"
        fail("\n".join([f"{count(len(error.faults), 'error')} in {what}:", *error.faults]), 2)
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return loaded
