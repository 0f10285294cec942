"""What all commands have in common: how their help looks, and what becomes of output that can't be written."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from btfeed.commands.usage import CONTEXT, reword
from btfeed.telemetry.printable import printable

C = TypeVar("C", bound=Callable[..., Any])

CLOSED_PIPE = 128 + signal.SIGPIPE
"""Exit status if the reader of standard output has gone, as a shell shows it for `cat`."""


def _without_types(parameters: list[Any]) -> list[Any]:
    """Help with the types of Python only where they say something: flags take no value, and arguments have a name."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif isinstance(parameter, TyperArgument):
            parameter.display_type_rich = _no_type  # type: ignore[method-assign]
    return parameters


def _no_type(ctx: Any) -> None:
    """In place of the method that says it."""


class Command(TyperCommand):
    """A command whose help shows flags as flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        CONTEXT.set(ctx)
        return super().invoke(ctx)


class Group(TyperGroup):
    """Commands with help like that of Command. What is wrong with their usage is said in our words."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            reword(error)
            raise


class App(typer.Typer):
    """The command line, or a group of its commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=Group, context_settings={"help_option_names": ["-h", "--help"]}, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[C], C]:
        return super().command(name, **{"cls": Command, **options})

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run the command that the process was started with, and exit.

        If standard output can't be written, the exit status is not 0, and stderr says why. If its reader has gone, as with
        `btfeed ... | head`, there is no message.
        """
        output = _Output()
        try:
            super().__call__(*arguments, **options)
        except SystemExit as ended:
            sys.exit(output.end(ended.code))
        except OSError as error:
            if error is not output.failure:
                raise
            sys.exit(output.end(0))


class _Output:
    """Takes the place of standard output, and remembers why it can't be written."""

    def __init__(self) -> None:
        self.failure: OSError | None = None
        if sys.stdout is None:  # it was closed at the start: writing fails, and no file takes its place
            sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), closefd=False)
        before = sys.stdout
        self._descriptor = before.fileno()
        raw = BufferedWriter(_Watched(self._descriptor, self._failed))
        self._stream = TextIOWrapper(raw, before.encoding, before.errors, line_buffering=before.isatty())
        sys.stdout = self._stream

    def _failed(self, error: OSError) -> None:
        self.failure = self.failure or error

    def end(self, status: Any) -> Any:
        """Write what is left. Returns the exit status: `status`, unless that is success and the output has failed."""
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)
        if self.failure is None:
            return status
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._descriptor)  # Python flushes it once more
        if self.failure.errno == errno.EPIPE:
            return CLOSED_PIPE
        if not status:
            typer.echo(printable(f"standard output: {self.failure.strerror}"), err=True)
        return status or 1


class _Watched(FileIO):
    def __init__(self, descriptor: int, failed: Callable[[OSError], None]) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._failed = failed

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self._failed(error)
            raise
