"""The command `btfeed sinks`: lists the sinks of a running server, and pauses, resumes and rewinds one of them."""

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from btfeed.commands.admin_client import AdminClient, AdminError, segment
from btfeed.commands.cli import App
from btfeed.commands.completion import sink_names
from btfeed.commands.config_file import ConfigFile
from btfeed.commands.moments import moment
from btfeed.commands.status import CaOption, TokenOption, UrlOption, admin_client
from btfeed.commands.terminal import fail
from btfeed.journal.base import LATEST, OLDEST
from btfeed.records.encoding import rfc3339
from btfeed.telemetry.printable import printable
from btfeed.telemetry.wording import count

sinks = App(no_args_is_help=True, help="List, pause, resume and rewind the sinks of a running server.")

COLUMNS = ("NAME", "TYPE", "STATE", "POSITION", "BACKLOG", "DELIVERED", "LAST ERROR")

SinkArgument = Annotated[str, typer.Argument(metavar="NAME", autocompletion=sink_names, help="The NAME in \\[sinks.NAME].")]
ToOption = Annotated[
    str,
    typer.Option(
        metavar="TIME|POSITION",
        help="Where to continue: 2h for the posts of the last two hours, 2026-01-16T10:05 (UTC) for those since then, a "
        "position as `sinks list` shows it (4:1606,5:1568 where there are several partitions), `oldest`, or `latest` for "
        "the next post.",
    ),
]
SkipOption = Annotated[
    bool, typer.Option("--skip", help="Also if the sink is not there yet, and so never gets some posts.")
]


@sinks.command("list")
def list_sinks(
    config: ConfigFile = None,
    url: UrlOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Show each sink: its type, state, position in the journal, backlog, records delivered and last error."""
    try:
        status = json.loads(admin_client(config, url, token, ca).status())
    except AdminError as error:
        fail(str(error))
    if as_json:
        for name, sink in status["sinks"].items():
            typer.echo(json.dumps({"name": name} | sink, ensure_ascii=False))
        return
    for line in _table([COLUMNS, *(_row(name, sink) for name, sink in status["sinks"].items())]):
        typer.echo(printable(line))


@sinks.command()
def pause(
    sink: SinkArgument, config: ConfigFile = None, url: UrlOption = None, token: TokenOption = None, ca: CaOption = None
) -> None:
    """Stop delivering to a sink, until `resume`, also over a restart. The journal holds its posts, while it has room."""
    done = _post(admin_client(config, url, token, ca), sink, "pause")
    if not done["changed"]:
        typer.echo(printable(f"sink {sink} is paused already"))
        return
    typer.echo(printable(f"sink {sink} is paused. The journal holds its posts until `btfeed sinks resume {sink}`,"))
    if done.get("others"):
        typer.echo("for journal.retention at most. All processes that deliver to it pause")
    else:
        typer.echo("and counts them towards its max_size: see `btfeed status`")


@sinks.command()
def resume(
    sink: SinkArgument, config: ConfigFile = None, url: UrlOption = None, token: TokenOption = None, ca: CaOption = None
) -> None:
    """Deliver to a paused sink again, from where it was."""
    changed = _post(admin_client(config, url, token, ca), sink, "resume")["changed"]
    typer.echo(printable(f"sink {sink} goes on" if changed else f"sink {sink} is not paused"))


@sinks.command()
def rewind(
    sink: SinkArgument,
    to: ToOption,
    config: ConfigFile = None,
    url: UrlOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    skip: SkipOption = False,
) -> None:
    """Deliver posts to a sink again, from a time or a position on. Other sinks don't notice."""
    place = _place(to)
    client = admin_client(config, url, token, ca)
    if to.isdecimal():
        _check_single(client, sink, to)
    done = _post(client, sink, "rewind", place | {"skip": skip})
    for line in _told(sink, place, done):
        typer.echo(printable(line))
    if skipped := sum(each["skipped"] for each in done["partitions"]):
        typer.echo(printable(f"sink {sink} never gets {count(skipped, 'post')}"), err=True)


def _post(client: AdminClient, sink: str, action: str, content: dict[str, Any] | None = None) -> Any:
    if not sink:
        raise typer.BadParameter("it is empty: name a sink, as `sinks list` shows them", param_hint="NAME")
    try:
        return client.post(f"/sinks/{segment(sink)}/{action}", content or {})
    except AdminError as error:
        fail(str(error))


def _place(to: str) -> dict[str, Any]:
    """What --to means to the server. Raises BadParameter."""
    if to in ("oldest", "latest"):
        return {"time": OLDEST if to == "oldest" else LATEST}
    try:
        if to.isdecimal():
            return {"positions": {0: int(to)}}
        if all(part.replace(":", "", 1).isdecimal() for part in to.split(",")):
            pairs = (part.split(":") for part in to.split(","))
            return {"positions": {int(partition): int(seq) for partition, seq in pairs}}
        return {"time": moment(to, round(time.time() * 1000))}
    except ValueError:
        message = f"invalid place {to!r}: write 2h, 2026-01-16T10:05, a position, oldest or latest"
        raise typer.BadParameter(message, param_hint="--to") from None


def _check_single(client: AdminClient, sink: str, position: str) -> None:
    """Refuse a position alone if the sink has others than partition 0, which it is of."""
    try:
        found = json.loads(client.status())["sinks"].get(sink, {})
    except AdminError as error:
        fail(str(error))
    partitions = list(found.get("positions") or ())
    if any(each != "0" for each in partitions):
        message = (
            f"of which partition? Write {partitions[-1]}:{position}, or several with commas, as `sinks list` shows them"
        )
        raise typer.BadParameter(message, param_hint="--to")


def _told(sink: str, place: dict[str, Any], done: dict[str, Any]) -> Iterator[str]:
    """What a rewind did."""
    moves = done["partitions"]
    positions = _positions({str(each["partition"]): each["position"] for each in moves})
    again = sum(each["again"] for each in moves)
    yield f"sink {sink} continues at position {positions}: it gets {count(again, 'post')} again"
    oldest = min((each["oldest"] for each in moves if each["oldest"] is not None), default=None)
    if oldest is None:
        yield "the journal has no posts"
    elif OLDEST < place.get("time", OLDEST) < oldest:
        yield f"the journal has no earlier posts: its oldest was received {rfc3339(oldest)}"
    else:
        yield f"the journal has posts since {rfc3339(oldest)}"
    asked: dict[int, int] = place.get("positions", {})
    if any(asked.get(each["partition"], 0) < each["position"] for each in moves if asked):
        yield f"position {_positions(asked)} is not in the journal any more"
    if done.get("others"):
        yield "other processes that deliver to it have other partitions: rewind it there, too"
    if done["paused"]:
        yield f"it is paused: `btfeed sinks resume {sink}` lets it go on"


def _positions(positions: dict[Any, int] | None) -> str:
    if not positions:
        return "unknown"
    if len(positions) == 1 and str(next(iter(positions))) == "0":
        return str(next(iter(positions.values())))
    return ",".join(f"{partition}:{seq}" for partition, seq in positions.items())


def _row(name: str, sink: dict[str, Any]) -> tuple[str, ...]:
    posts = sink["backlog_posts"]
    age = f" ({sink['backlog_age_seconds']:.0f} s)" if posts else ""
    backlog = "unknown" if posts is None else f"{count(posts, 'post')}{age}"
    position = _positions(sink.get("positions"))
    return (
        name,
        sink.get("type", "unknown"),
        sink["state"],
        position,
        backlog,
        str(sink["delivered"]),
        sink["last_error"] or ("not shown without the token" if sink["last_error_time"] else "none"),
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
