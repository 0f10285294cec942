"""Wrong usage of the command line: in the words of this project, and options that would have no effect."""

from collections.abc import Iterable
from contextvars import ContextVar

import typer

from btfeed.commands.urls import without_credentials

CONTEXT: ContextVar[typer.Context | None] = ContextVar("CONTEXT", default=None)
"""Of the command that runs."""


def reword(error: typer.TyperException) -> None:
    """Say what is wrong as the configuration's errors do, not as pydantic does, and hide credentials of URLs."""
    from pydantic import ValidationError  # slow to import, and needed for an error only

    cause = error.__cause__
    if isinstance(cause, ValidationError):
        from btfeed.faults import MESSAGES

        fault = cause.errors(include_url=False)[0]
        known = {"int_parsing": "must be an integer", **MESSAGES}.get(fault["type"])
        error.message = known.format(**fault.get("ctx", {})) if known else fault["msg"].removeprefix("Value error, ")
    error.message = without_credentials(error.message)


def given(options: Iterable[str]) -> list[str]:
    """Which of these options the command line has, whatever their values. By the names of parameters: `json_output`."""
    context = CONTEXT.get()
    if context is None:  # called without a command line
        return []
    names = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    return [names[option] for option in options if _is_given(context, option)]


def _is_given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def refuse_useless(options: Iterable[str], why: str) -> None:
    """Raises BadParameter if the command line has one of these options, which would have no effect.

    why: what to do, such as "only useful with --rate"
    """
    for option in given(options):
        raise typer.BadParameter(why, param_hint=option)
