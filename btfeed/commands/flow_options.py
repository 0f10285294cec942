"""Options of the commands of `btfeed flow`: where records are, which flows, what to show, and what DuckDB may use."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer

from btfeed.commands.completion import sink_names
from btfeed.commands.moments import moment, seconds
from btfeed.commands.posting import now
from btfeed.commands.terminal import fail
from btfeed.faults import ConfigError

if TYPE_CHECKING:
    from btfeed.flow.definition import Definition

SOURCE, WHICH, MACHINE = "Where the records are", "Which flows", "What it may use"
"""Headings in --help."""

DefinitionArgument = Annotated[
    str,
    typer.Argument(
        metavar="DEFINITION", autocompletion=lambda: _shipped(),
        help="web-shop, flight-search, loan-application, or a TOML file.",
    ),
]  # fmt: skip
SourcesArgument = Annotated[
    Optional[list[Path]],
    typer.Argument(
        metavar="SOURCE",
        help="Files with records (*.ndjson, *.jsonl, also with .gz or .zst, *.avro, *.parquet) or with posts (*.btposts, "
        "*.bin), folders of them, or - for stdin.",
    ),
]
ConfigOption = Annotated[
    Optional[Path],
    typer.Option(
        "-c", "--config", metavar="FILE", envvar="BTFEED_CONFIG", show_envvar=False, rich_help_panel=SOURCE,
        help="With --sink, and for post files: the configuration of the server.",
    ),
]  # fmt: skip
SinkOption = Annotated[
    Optional[str],
    typer.Option(
        "--sink", metavar="NAME", autocompletion=sink_names, rich_help_panel=SOURCE,
        help="What this sink of the configuration wrote: the files of a file sink, the indexes of an elasticsearch sink.",
    ),
]  # fmt: skip
OpenOption = Annotated[
    bool,
    typer.Option(
        "--open", rich_help_panel=SOURCE, help="Also read *.open files, which a server still writes to, as they are now."
    ),
]
ElasticsearchOption = Annotated[
    Optional[list[str]],
    typer.Option(
        "--elasticsearch", metavar="URL", rich_help_panel=SOURCE,
        help="Read from Elasticsearch; repeat it for several nodes.",
    ),
]  # fmt: skip
IndexOption = Annotated[
    Optional[str],
    typer.Option(
        "--index", metavar="PATTERN", rich_help_panel=SOURCE,
        help="With --elasticsearch: indexes, such as bizevents-appmon-*-2026-03-*. Default: those of a sink's defaults.",
    ),
]  # fmt: skip
UserOption = Annotated[
    Optional[str],
    typer.Option(
        "--user", metavar="NAME:PASSWORD", rich_help_panel=SOURCE,
        help="With --elasticsearch: credentials. Keep them out of the process list with @FILE.",
    ),
]  # fmt: skip
ApiKeyOption = Annotated[
    Optional[Path],
    typer.Option(
        "--api-key-file", metavar="FILE", rich_help_panel=SOURCE,
        help="With --elasticsearch: a file with an API key, as Elasticsearch returns it in `encoded`.",
    ),
]  # fmt: skip
CaOption = Annotated[
    Optional[Path],
    typer.Option(
        "--ca", metavar="FILE", rich_help_panel=SOURCE,
        help="With --elasticsearch: PEM file with the CA of the server's certificate.",
    ),
]  # fmt: skip
FromOption = Annotated[
    Optional[str],
    typer.Option(
        "--from", metavar="TIME", rich_help_panel=WHICH,
        help="Only flows from this time on: 2026-01-16T10:05 (UTC), 2026-01-16T10:05+01:00, or 24h for 24 hours ago.",
    ),
]  # fmt: skip
ToOption = Annotated[
    Optional[str], typer.Option("--to", metavar="TIME", rich_help_panel=WHICH, help="Only flows before this time.")
]
LastOption = Annotated[
    Optional[str],
    typer.Option(
        "--last", metavar="TIME", rich_help_panel=WHICH,
        help="Only flows of this time before the moment that is looked from, such as 24h.",
    ),
]  # fmt: skip
AsOfOption = Annotated[
    Optional[str],
    typer.Option(
        "--as-of", metavar="TIME", rich_help_panel=WHICH,
        help="Look from this moment, as if there were no later records. Default: the newest record, for Elasticsearch now.",
    ),
]  # fmt: skip
ByOption = Annotated[
    Literal["start", "decided"],
    typer.Option(
        "--by", metavar="start|decided", rich_help_panel=WHICH,
        help="Whether a flow belongs to the time at which it began, or at which it was decided what becomes of it.",
    ),
]  # fmt: skip
MatureOption = Annotated[
    bool,
    typer.Option("--mature", rich_help_panel=WHICH, help="Only flows that are old enough to be over in all probability."),
]
WhereOption = Annotated[
    Optional[list[str]],
    typer.Option(
        "--where", metavar="DIMENSION=VALUE", rich_help_panel=WHICH, help="Only flows with this value; may be repeated."
    ),
]
MemoryOption = Annotated[
    Optional[str],
    typer.Option(
        "--memory", metavar="SIZE", rich_help_panel=MACHINE,
        help="Memory that DuckDB may use, such as 500MiB. Default: half of what is free, at most 4GiB.",
    ),
]  # fmt: skip
TempOption = Annotated[
    Optional[Path],
    typer.Option(
        "--temp", metavar="DIR", rich_help_panel=MACHINE,
        help="Where to put temporary files: what does not fit in memory, and records of other sources than files.",
    ),
]  # fmt: skip
Format = Literal["text", "json", "csv", "html", "svg"]
FOLDERS = ("csv", "svg")
"""Formats of several files."""
PAGE_LISTS = 50
"""How many flows each list of a report has, unless --lists says that. In text, there are none."""
CompareOption = Annotated[
    Optional[str],
    typer.Option(
        "--compare", metavar="previous|week|none|TIME", show_default=False,
        help="With which earlier period: the one before, the same a week or a TIME earlier. Default: a week where "
        "records go back so far, else the one before.",
    ),
]  # fmt: skip
SplitOption = Annotated[
    Optional[list[str]],
    typer.Option("--split", metavar="DIMENSION[,DIMENSION]", help="Also the numbers of each value; may be repeated."),
]
FormatOption = Annotated[
    Optional[Format],
    typer.Option(
        "--format", metavar="text|json|csv|html|svg", show_default=False,
        help="What to write: csv is a folder with a file for each table, svg one with pictures. Default: as --out ends, "
        "else text.",
    ),
]  # fmt: skip
OutOption = Annotated[  # a text, since an empty path would be the current directory
    Optional[str], typer.Option("--out", metavar="FILE", help="Write to this file, or with csv and svg into this folder.")
]
ListsOption = Annotated[
    Optional[int],
    typer.Option(
        "--lists", min=0, metavar="N", show_default=False,
        help=f"How many flows each list has. Default: {PAGE_LISTS}, in text none.",
    ),
]  # fmt: skip
StateOption = Annotated[
    Optional[list[str]],
    typer.Option("--state", metavar="STATE", help="converted, late, ended, lost or open; may be repeated."),
]
AtOption = Annotated[
    Optional[str], typer.Option("--at", metavar="STEP", help="Only flows that came to this step, and no further.")
]
IdleOption = Annotated[
    Optional[str], typer.Option("--idle", metavar="TIME", help="Only flows without an event for so long, such as 2h.")
]
ExceptionsOption = Annotated[bool, typer.Option("--exceptions", help="Only flows with an exception.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, metavar="N", help="At most N flows.")]
SortOption = Annotated[
    Literal["start", "last", "value", "exceptions"],
    typer.Option("--sort", metavar="start|last|value|exceptions", help="The newest, or the largest, first."),
]


def _shipped() -> list[str]:
    from btfeed.flow.definition import shipped  # slow to import, and not needed by every command

    return list(shipped())


def definition_of(name: str) -> "Definition":
    """The definition. Ends the command with status 2 if it has faults."""
    from btfeed.flow.definition import load  # slow to import, and not needed by every command

    try:
        return load(name)
    except ConfigError as error:
        fail("\n".join([f"invalid definition {name}:", *error.faults]), 2)


def file_of(name: str) -> tuple[Path, ...]:
    """The file of a definition, unless it is built in."""
    return () if name in _shipped() else (Path(name),)


@dataclass(frozen=True, slots=True)
class Moments:
    """The values of the options that choose flows, as they were given."""

    begin: str | None = None
    end: str | None = None
    last: str | None = None
    as_of: str | None = None
    by: str = "start"
    mature: bool = False
    where: tuple[str, ...] = ()

    def selection(self, definition: "Definition") -> dict[str, Any]:
        """The arguments of a Selection. `last` is left to `within`. Raises BadParameter."""
        if self.last is not None and (self.begin is not None or self.end is not None):
            raise typer.BadParameter(
                "it says where the period begins and ends: leave out --from and --to", param_hint="--last"
            )
        if length(self.last, "--last") == 0:
            raise typer.BadParameter("a period of no time has no flows", param_hint="--last")
        given = {
            "begin": at(self.begin, "--from"),
            "end": at(self.end, "--to"),
            "as_of": at(self.as_of, "--as-of"),
        }
        if given["begin"] is not None and given["end"] is not None and given["begin"] >= given["end"]:
            raise typer.BadParameter("it must be after --from", param_hint="--to")
        return given | {"by": self.by, "mature": self.mature, "where": self._where(definition)}

    def within(self, selection: dict[str, Any], latest: int | None) -> dict[str, Any]:
        """With what --last means, which is counted back from as_of, else from `latest`: the end includes that moment."""
        back, end = length(self.last, "--last"), selection["as_of"] if selection["as_of"] is not None else latest
        if back is None or end is None:
            return selection
        return selection | {"begin": end + 1 - back, "end": end + 1}

    def _where(self, definition: "Definition") -> tuple[tuple[str, str], ...]:
        found = []
        for text in self.where:
            name, equals, value = text.partition("=")
            if not equals:
                raise typer.BadParameter(f"write it like segment=gold, not {text}", param_hint="--where")
            found.append((dimension(name, definition, "--where"), value))
        return tuple(found)


def at(text: str | None, option: str) -> int | None:
    """Milliseconds since the epoch. Raises BadParameter."""
    try:
        return None if text is None else moment(text, now())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def length(text: str | None, option: str) -> int | None:
    """A time in milliseconds. Raises BadParameter."""
    try:
        return None if text is None else round(seconds(text) * 1000)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def size(text: str | None, option: str) -> int | None:
    """A number of bytes. Raises BadParameter."""
    from pydantic import TypeAdapter, ValidationError

    from sinks.settings import Size

    try:
        return None if text is None else TypeAdapter(Size).validate_python(text)
    except ValidationError:
        raise typer.BadParameter(f"invalid size {text!r}: write 500MiB or 2GiB", param_hint=option) from None


def dimension(name: str, definition: "Definition", option: str) -> str:
    """`name` if the definition has a dimension of that name. Raises BadParameter."""
    return one_of(name, list(definition.dimensions), "dimension", option)


def step(name: str | None, definition: "Definition", option: str) -> str | None:
    """`name` if the definition has a step of that name. Raises BadParameter."""
    return None if name is None else one_of(name, [each.name for each in definition.steps], "step", option)


def one_of(name: str, known: list[str], what: str, option: str) -> str:
    """`name` if it is one of those that are known. Raises BadParameter, which names them."""
    if name not in known:
        choice = ", ".join(known) or "none"
        raise typer.BadParameter(f"there is no {what} {name!r}: the definition has {choice}", param_hint=option)
    return name


@contextmanager
def told() -> Iterator[None]:
    """Ends the command with status 1 if the records can't be read, and with 2 if DuckDB is not there."""
    from btfeed.flow.errors import EngineMissing, FlowError

    try:
        yield
    except EngineMissing as error:
        fail(str(error), 2)
    except FlowError as error:
        fail(str(error))
