"""The commands `btfeed flow`: report, list, trace, check, init."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from btfeed.commands.cli import App
from btfeed.commands.flow_init import init
from btfeed.commands.flow_options import (
    PAGE_LISTS,
    ApiKeyOption,
    AsOfOption,
    AtOption,
    ByOption,
    CaOption,
    CompareOption,
    ConfigOption,
    DefinitionArgument,
    ElasticsearchOption,
    ExceptionsOption,
    FormatOption,
    FromOption,
    IdleOption,
    IndexOption,
    LastOption,
    LimitOption,
    ListsOption,
    MatureOption,
    MemoryOption,
    Moments,
    OpenOption,
    OutOption,
    SinkOption,
    SortOption,
    SourcesArgument,
    SplitOption,
    StateOption,
    TempOption,
    ToOption,
    UserOption,
    WhereOption,
    at,
    definition_of,
    dimension,
    file_of,
    length,
    size,
    step,
    told,
)
from btfeed.commands.flow_output import output
from btfeed.commands.flow_source import Records, say, with_unreadable
from btfeed.commands.terminal import fail
from btfeed.telemetry.printable import lines, meant, printable

if TYPE_CHECKING:
    from btfeed.flow.engine import Engine
    from btfeed.flow.report import ListedFlow, Report, Trace

flow = App(no_args_is_help=True, help="Show what became of business processes, out of the records that sinks wrote.")
flow.command()(init)

TEXT_LISTS = 0
"""How many flows each list has in text, unless --lists says that."""


@flow.command()
def report(
    definition: DefinitionArgument,
    sources: SourcesArgument = None,
    begin: FromOption = None,
    end: ToOption = None,
    last: LastOption = None,
    as_of: AsOfOption = None,
    by: ByOption = "start",
    mature: MatureOption = False,
    where: WhereOption = None,
    compare: CompareOption = None,
    split: SplitOption = None,
    form: FormatOption = None,
    out: OutOption = None,
    lists: ListsOption = None,
    sink: SinkOption = None,
    config: ConfigOption = None,
    open_files: OpenOption = False,
    elasticsearch: ElasticsearchOption = None,
    index: IndexOption = None,
    user: UserOption = None,
    api_key: ApiKeyOption = None,
    ca: CaOption = None,
    memory: MemoryOption = None,
    temp: TempOption = None,
) -> None:
    """Print the numbers of the flows that a definition describes, or write them to a file."""
    found = definition_of(definition)
    to = output(form, out)
    from btfeed.flow.options import ReportOptions  # slow to import, and not needed by every command

    moments = Moments(begin, end, last, as_of, by, mature, tuple(where or ()))
    selection = moments.selection(found)
    options = {
        "compare": _compare(compare),
        "covered": True,
        "split": tuple(tuple(dimension(name, found, "--split") for name in each.split(",")) for each in split or ()),
        "lists": lists if lists is not None else TEXT_LISTS if to.form == "text" else PAGE_LISTS,
    }
    records = Records(
        tuple(sources or ()), config, sink, open_files, tuple(elasticsearch or ()), index, user, api_key, ca,
        size(memory, "--memory"), temp, file_of(definition), to.files(),
    )  # fmt: skip
    records.check()

    def ask(engine: "Engine") -> "Report":
        return engine.report(ReportOptions(**moments.within(selection, engine.as_of()), **options))

    with told():
        made, scan = records.answer(found, ask)
    to.write(with_unreadable(made, scan), found)


def _compare(text: str | None) -> Any:
    """What ReportOptions takes. Raises BadParameter."""
    if text is None or text in ("previous", "week", "none"):
        return text
    try:
        if shift := length(text, "--compare"):
            return shift
    except typer.BadParameter:
        choice = f"{text!r} is not previous, week, none, or a time such as 7d or 24h"
        raise typer.BadParameter(choice, param_hint="--compare") from None
    raise typer.BadParameter("the period would be compared with itself", param_hint="--compare")


@flow.command("list")
def list_flows(
    definition: DefinitionArgument,
    sources: SourcesArgument = None,
    state: StateOption = None,
    furthest: AtOption = None,
    idle: IdleOption = None,
    exceptions: ExceptionsOption = False,
    limit: LimitOption = 100,
    sort: SortOption = "start",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per flow.")] = False,
    begin: FromOption = None,
    end: ToOption = None,
    last: LastOption = None,
    as_of: AsOfOption = None,
    by: ByOption = "start",
    mature: MatureOption = False,
    where: WhereOption = None,
    sink: SinkOption = None,
    config: ConfigOption = None,
    open_files: OpenOption = False,
    elasticsearch: ElasticsearchOption = None,
    index: IndexOption = None,
    user: UserOption = None,
    api_key: ApiKeyOption = None,
    ca: CaOption = None,
    memory: MemoryOption = None,
    temp: TempOption = None,
) -> None:
    """Print flows, one a line: id, start, state, furthest step, last event, value, exceptions."""
    found = definition_of(definition)
    from btfeed.flow.options import ListOptions  # slow to import, and not needed by every command

    moments = Moments(begin, end, last, as_of, by, mature, tuple(where or ()))
    selection = moments.selection(found)
    options: dict[str, Any] = {
        "states": _states(state), "at": step(furthest, found, "--at"), "idle": length(idle, "--idle"),
        "exceptions": exceptions, "limit": limit, "sort": sort,
    }  # fmt: skip
    records = Records(
        tuple(sources or ()), config, sink, open_files, tuple(elasticsearch or ()), index, user, api_key, ca,
        size(memory, "--memory"), temp,
    )  # fmt: skip
    records.check()

    def ask(engine: "Engine") -> "Sequence[ListedFlow]":
        return engine.flows(ListOptions(**moments.within(selection, engine.as_of()), **options))

    with told():
        flows, _ = records.answer(found, ask)
    _list(flows, ZoneInfo(found.timezone), as_json)
    if len(flows) == limit:
        say(f"there may be more than {limit}: see --limit")


def _list(flows: "Sequence[ListedFlow]", zone: ZoneInfo, as_json: bool) -> None:
    from btfeed.flow import as_json as json_form
    from btfeed.flow import text

    if not flows:
        say("no flow fits these options")
    elif as_json:
        for listed in flows:
            typer.echo(json_form.line(json_form.plain(listed)).decode())
    else:
        typer.echo(lines(text.listed(flows, zone)))


def _states(named: list[str] | None) -> tuple[str, ...]:
    """Raises BadParameter."""
    from btfeed.flow.options import STATES

    for each in named or ():
        if each not in STATES:
            raise typer.BadParameter(f"{each!r} is not one of {', '.join(STATES)}", param_hint="--state")
    return tuple(named or ())


@flow.command()
def trace(
    definition: DefinitionArgument,
    flow_id: Annotated[str, typer.Argument(metavar="ID", help="The correlation id, such as that of a visit.")],
    sources: SourcesArgument = None,
    as_of: AsOfOption = None,
    only_records: Annotated[bool, typer.Option("--records", help="Print the records as they are, one a line.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    sink: SinkOption = None,
    config: ConfigOption = None,
    open_files: OpenOption = False,
    elasticsearch: ElasticsearchOption = None,
    index: IndexOption = None,
    user: UserOption = None,
    api_key: ApiKeyOption = None,
    ca: CaOption = None,
    memory: MemoryOption = None,
    temp: TempOption = None,
) -> None:
    """Print one flow: every record with the time since the one before, the PurePaths behind it, and what became of it."""
    if only_records and as_json:
        raise typer.BadParameter(
            "prints the whole flow, and --records its records: leave out one of them", param_hint="--json"
        )
    found = definition_of(definition)
    records = Records(
        tuple(sources or ()), config, sink, open_files, tuple(elasticsearch or ()), index, user, api_key, ca,
        size(memory, "--memory"), temp,
    )  # fmt: skip
    records.check()
    moment = at(as_of, "--as-of")
    ids = tuple(dict.fromkeys((flow_id, meant(flow_id))))  # what `list` shows has escapes

    def ask(engine: "Engine") -> "Trace | None":
        return next((traced for each in ids if (traced := engine.trace(each, moment))), None)

    with told():
        traced, _ = records.answer(found, ask, flows=ids)
    if traced is None:
        fail(f"no record has the id {flow_id}" + (f", as of {as_of}" if as_of else ""))
    from btfeed.flow import as_json as json_form
    from btfeed.flow import text

    if only_records:
        for record in traced.records:
            typer.echo(printable(record.record))
    elif as_json:
        typer.echo(json_form.encode(json_form.traced(traced)).decode(), nl=False)
    else:
        typer.echo(lines(text.trace(traced, ZoneInfo(found.timezone))))


@flow.command()
def check(
    definition: DefinitionArgument,
    sources: SourcesArgument = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the definition instead: a built-in one is a start for your own.")
    ] = False,
    sink: SinkOption = None,
    config: ConfigOption = None,
    open_files: OpenOption = False,
    elasticsearch: ElasticsearchOption = None,
    index: IndexOption = None,
    user: UserOption = None,
    api_key: ApiKeyOption = None,
    ca: CaOption = None,
    memory: MemoryOption = None,
    temp: TempOption = None,
) -> None:
    """Check a definition, and with a SOURCE whether it fits the records. The exit status is 3 if it does not."""
    found = definition_of(definition)
    records = Records(
        tuple(sources or ()), config, sink, open_files, tuple(elasticsearch or ()), index, user, api_key, ca,
        size(memory, "--memory"), temp,
    )  # fmt: skip
    if show:
        from btfeed.flow.definition import text as text_of

        typer.echo(text_of(definition), nl=False)
        return
    if not (sources or sink or elasticsearch):
        say(f"definition: ok, {len(found.steps)} steps. With a SOURCE, it is compared with records")
        return
    records.check()
    from btfeed.flow import checking
    from btfeed.flow.options import ReportOptions

    with told():
        (coverage, made), scan = records.answer(
            found, lambda engine: (engine.coverage(), engine.report(ReportOptions(compare="none"))), whole=True
        )
    coverage = replace(coverage, read=with_unreadable(made, scan).source)
    typer.echo(lines(checking.lines(found, coverage)))
    findings = list(checking.findings(found, coverage, made))
    for finding in findings:
        say(finding)
    if findings:
        raise typer.Exit(3)
