"""Structured logs on stderr: text, or one JSON object per line. docs/logs.md explains them."""

import logging
import os
import sys
from contextlib import suppress
from io import StringIO
from typing import Any, TextIO, cast

import structlog

from btfeed.telemetry.printable import printable

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
FORMATS = ("auto", "console", "json")


class _TolerantStream:
    """Ignores write errors, such as a full disk or a closed pipe. A log line may be lost; the work must go on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _printable_values(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """For the terminal, which shows other values with their `repr`."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


def _printable_traceback(stream: TextIO, exc_info: Any) -> None:
    """A plain one: a rich one would show local variables, which may hold secrets."""
    text = StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write(printable(text.getvalue()))


def configure(level: str = "INFO", format: str = "auto") -> None:
    """Set up logging for the process. Libraries that use `logging` are included, from WARNING on.

    level   one of LEVELS
    format  one of FORMATS; "auto" is "console" if stderr is a terminal, otherwise "json"
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    final: list[Any]
    terminal = sys.stderr.isatty()
    if format == "console" or (format == "auto" and terminal):
        colors = terminal and not os.environ.get("NO_COLOR")
        console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_printable_traceback)
        final = [_printable_values, console]
    else:
        final = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _TolerantStream(sys.stderr))),  # one write a line
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove_meta, *final]))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
