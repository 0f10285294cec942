"""The options --log-level and --log-format of commands that log."""

from typing import Annotated

import typer

from btfeed.telemetry import logs

LOGS = "Logs, on stderr"
"""Heading in --help."""

LogLevel = Annotated[
    str,
    typer.Option(
        metavar="LEVEL", rich_help_panel=LOGS, envvar="BTFEED_LOG_LEVEL", autocompletion=lambda: list(logs.LEVELS),
        help="DEBUG, INFO, WARNING or ERROR.",
    ),
]  # fmt: skip
LogFormat = Annotated[
    str,
    typer.Option(
        metavar="FORMAT", rich_help_panel=LOGS, envvar="BTFEED_LOG_FORMAT", autocompletion=lambda: list(logs.FORMATS),
        help="console (text), json (one object per line), or auto: console on a terminal.",
    ),
]  # fmt: skip
LEVEL, FORMAT = "INFO", "auto"
"""Defaults."""


def configure_logs(level: str, format: str) -> None:
    """Set up logging. Raises BadParameter."""
    if level.upper() not in logs.LEVELS:
        known = "use DEBUG, INFO, WARNING or ERROR"
        raise typer.BadParameter(f"unknown log level {level!r}: {known}", param_hint="--log-level")
    if format.lower() not in logs.FORMATS:
        raise typer.BadParameter(f"unknown log format {format!r}: use console, json or auto", param_hint="--log-format")
    logs.configure(level.upper(), format.lower())
