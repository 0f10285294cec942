"""The --config option that several commands have, and which file it stands for if it is not given."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Optional

import typer

from btfeed.commands.terminal import fail
from btfeed.faults import ConfigError
from btfeed.telemetry.wording import count

if TYPE_CHECKING:
    from btfeed.config import Config

VARIABLE = "BTFEED_CONFIG"
DEFAULT_FILE = Path("/etc/btfeed/btfeed.toml")


def _chosen(given: Path | None) -> Path | None:
    return given or (DEFAULT_FILE if _is_there(DEFAULT_FILE) else None)


def _is_there(path: Path) -> bool:
    """Also if it can't be reached: then a user must hear so, instead of getting another configuration."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


ConfigFile = Annotated[
    Optional[Path],
    typer.Option(
        "-c", "--config", metavar="FILE", envvar=VARIABLE, show_envvar=False, callback=_chosen,
        help=f"Configuration file (TOML). Without it: ${VARIABLE}, else {DEFAULT_FILE}, else built-in defaults, which "
        "write records to files in ./btfeed-data.",
    ),
]  # fmt: skip
"""The file to load, or None for the built-in defaults."""


def described(path: Path | None) -> str:
    """The configuration in words, and why it is this one if the command line does not say so."""
    if path is None:
        return f"the built-in defaults (no -c, no ${VARIABLE}, no {DEFAULT_FILE})"
    if os.environ.get(VARIABLE) == str(path):
        return f"{path} (from ${VARIABLE})"
    return f"{path} (the default file)" if path == DEFAULT_FILE else str(path)


def refuse(path: Path | None, faults: Collection[str]) -> NoReturn:
    """Print what is wrong with the configuration, and exit with status 2."""
    fail("\n".join([f"{count(len(faults), 'error')} in {described(path)}:", *faults]), 2)


def load(
    path: Path | None, needs: Collection[str] | None = None, tolerant: bool = False, name_missing: bool = True
) -> "Config":
    """The configuration in `path`, or the default one. Exits with status 2 if it has faults, and prints its warnings.

    needs, tolerant  as for config.load: by default, everything is needed
    name_missing     if it has other faults, also name references that stand for nothing
    """
    from btfeed import config as configuration  # slow to import, and not needed by every command

    try:
        loaded = configuration.load(path, needs=needs or configuration.TABLES, tolerant=tolerant)
    except ConfigError as error:
        refuse(path, [fault for fault in error.faults if name_missing or fault not in error.unresolved])
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return loaded
