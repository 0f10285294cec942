"""The command `btfeed replay`."""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from btfeed.commands.config_file import load
from btfeed.commands.connection import (
    Access,
    BearerOption,
    CaOption,
    CertificateOption,
    InsecureOption,
    KeyOption,
    UserOption,
)
from btfeed.commands.log_options import FORMAT, LEVEL, LogFormat, LogLevel, configure_logs
from btfeed.commands.outputs import files_in
from btfeed.commands.posting import (
    DEFAULT_URL,
    ConnectionsOption,
    JsonOption,
    OutOption,
    RejectsOption,
    RetryOption,
    SendJob,
    now,
    parse_moment,
)
from btfeed.commands.terminal import fail
from btfeed.commands.urls import check_url, looks_like_url, shown
from btfeed.commands.usage import refuse_useless
from btfeed.journal.base import JournalError
from btfeed.posts import files as postfile
from btfeed.traffic.replay import FileSource, JournalRange, PostSource, Schedule, SourceError

JOURNAL, SPEED = "Posts of a journal", "Speed and times"
"""Headings in --help."""

SourcesArgument = Annotated[
    Optional[list[str]],
    typer.Argument(
        metavar="SOURCE",
        help="Files with posts (*.bin, *.btposts, also with .gz), folders of them, or - for stdin. "
        "The last argument may be the URL.",
    ),
]
UrlOption = Annotated[str, typer.Option("--url", metavar="URL", help="Where to send the posts.")]
JournalOption = Annotated[
    Optional[Path],
    typer.Option(metavar="DIRECTORY", rich_help_panel=JOURNAL, help="Replay the posts of this journal, not of files."),
]
ConfigOption = Annotated[
    Optional[Path],
    typer.Option(
        "-c", "--config", metavar="FILE", rich_help_panel=JOURNAL,
        help="Replay the posts of the journal that this configuration file names, such as one in Kafka.",
    ),
]  # fmt: skip
FromOption = Annotated[
    Optional[str],
    typer.Option(
        "--from", metavar="TIME", rich_help_panel=JOURNAL,
        help="Only posts received at this time or later: 2026-01-16T10:05 (UTC), or 24h for 24 hours ago.",
    ),
]  # fmt: skip
ToOption = Annotated[
    Optional[str],
    typer.Option("--to", metavar="TIME", rich_help_panel=JOURNAL, help="Only posts received before this time."),
]
RateOption = Annotated[
    Optional[float],
    typer.Option(
        min=0.001, metavar="N", rich_help_panel=SPEED,
        help="Send this many posts (or occurrences, see --unit) per second. Default: as fast as answers arrive.",
    ),
]  # fmt: skip
UnitOption = Annotated[Literal["posts", "occurrences"], typer.Option(rich_help_panel=SPEED, help="What --rate counts.")]
SpeedOption = Annotated[
    Optional[str],
    typer.Option(
        metavar="FACTOR", rich_help_panel=SPEED, help="Follow the recorded times: 1x, 10x, 0.5x; or max, the default."
    ),
]
LoopOption = Annotated[
    int, typer.Option(min=0, metavar="N", rich_help_panel=SPEED, help="Replay this many times; 0 means until stopped.")
]
ShiftToNowOption = Annotated[
    bool,
    typer.Option(
        "--shift-to-now", rich_help_panel=SPEED,
        help="Move all times in the posts by one offset, so that the newest is now.",
    ),
]  # fmt: skip


def replay(
    sources: SourcesArgument = None,
    url: UrlOption = DEFAULT_URL,
    out: OutOption = None,
    journal: JournalOption = None,
    config: ConfigOption = None,
    begin: FromOption = None,
    end: ToOption = None,
    rate: RateOption = None,
    unit: UnitOption = "posts",
    speed: SpeedOption = None,
    loop: LoopOption = 1,
    shift_to_now: ShiftToNowOption = False,
    connections: ConnectionsOption = 1,
    user: UserOption = None,
    bearer: BearerOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    retry: RetryOption = False,
    rejects: RejectsOption = None,
    json_output: JsonOption = False,
    log_level: LogLevel = LEVEL,
    log_format: LogFormat = FORMAT,
) -> None:
    """Send recorded posts to a URL as AppMon does, or write them to a file.

    Each post is sent once, whatever the answer. The exit status is 0 only if every post was accepted.
    """
    configure_logs(log_level, log_format)
    sources, url = _separate_url(list(sources or ()), url)
    if rate is None:
        refuse_useless(["unit"], "only useful with --rate")
    _check_usage(sources, url, out, journal, config, bool(begin or end))
    schedule = Schedule(rate, unit, _parse_speed(speed, rate), loop, now if shift_to_now else None)
    access = Access(user, bearer, certificate, key, ca, insecure)
    job = SendJob(url, out, connections, access, retry, rejects, json_output)
    again = shift_to_now or loop != 1  # standard input can only be read once
    with tempfile.TemporaryFile() if again else nullcontext() as copy:
        try:
            source: PostSource
            if journal or config:
                source, inputs = _journal_source(journal, config, begin, end)
            else:
                inputs = postfile.find(map(Path, sources))
                source = FileSource(inputs, copy)
        except (postfile.PostFileError, SourceError, JournalError) as error:
            fail(f"{error}{_url_hint(sources, str(error))}")
        summary, stopped = job.run(
            schedule.posts(source), inputs, broken=source.broken, paced=bool(rate or schedule.speed),
            done=_done_over_all_loops(source), total=source.total * loop if source.total and loop else None,
            blocking=source.blocking,
        )  # fmt: skip
    if source.broken:
        fail("\n".join(source.broken))
    if stopped:
        fail("stopped by a signal: the remaining posts were not sent")
    if summary.refused or summary.unknown:
        raise typer.Exit(1)


def _separate_url(sources: list[str], url: str) -> tuple[list[str], str]:
    """The sources, and the URL if it is the last of them."""
    if sources and looks_like_url(sources[-1]):
        url = sources.pop()
        refuse_useless(["url"], f"the last argument is a URL already: {shown(url)}")
        refuse_useless(["out"], f"the posts can't also be sent to {shown(url)}: leave out one of them")
    misplaced = next(filter(looks_like_url, sources), None)
    if misplaced:
        written = shown(misplaced if "://" in misplaced else f"http://{misplaced}")
        raise typer.BadParameter(f"put the URL {written} last, after the files", param_hint="SOURCES")
    return sources, url


def _url_hint(sources: list[str], error: str) -> str:
    """What else may be meant if the last source has a name that no post file has."""
    return "; start it with http:// if it is the URL" if sources[1:] and error.startswith(f"{sources[-1]}: not a") else ""


def _check_usage(
    sources: list[str], url: str, out: Path | None, journal: Path | None, config: Path | None, by_time: bool
) -> None:
    """Raises BadParameter."""
    if not sources and not (journal or config):
        before = "" if url == DEFAULT_URL else f" besides the URL {shown(url)}"
        raise typer.BadParameter(f"name files or folders with posts, or a --journal{before}", param_hint="SOURCES")
    if journal and config:
        raise typer.BadParameter("name a journal either by --journal or by --config, not both", param_hint="--config")
    if sources and (journal or config):
        hint = "--journal" if journal else "--config"
        raise typer.BadParameter("replay either files or a journal, not both", param_hint=hint)
    if not (journal or config) and by_time:
        raise typer.BadParameter(
            "--from and --to need --journal or --config: only posts of a journal have times of receipt",
            param_hint="--from",
        )
    if out is None:
        check_url(url)


def _journal_source(
    directory: Path | None, config: Path | None, begin: str | None, end: str | None
) -> tuple[JournalRange, list[Path]]:
    """The posts of the journal in a directory, or of the one that a configuration names; and files that are no output.

    Raises BadParameter, JournalError or SourceError.
    """
    from btfeed.journal import create as journals  # slow to import, and not needed for files

    moments = parse_moment(begin, "--from"), parse_moment(end, "--to")
    if directory:
        return JournalRange(journals.archive(directory, *moments)), files_in(directory)
    settings = load(config, ["journal"]).journal
    inputs = [path for each in journals.directories(settings) for path in files_in(each)]
    return JournalRange(journals.archive(settings, *moments)), [*inputs, *([config] if config else [])]


def _parse_speed(text: str | None, rate: float | None) -> float | None:
    """None means as fast as possible. Raises BadParameter."""
    if text is None or text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e9:
        raise typer.BadParameter(f"invalid speed {text!r}: write 1x, 10x, 0.5x or max", param_hint="--speed")
    if rate:
        raise typer.BadParameter("use either --rate or --speed, not both", param_hint="--speed")
    return speed


def _done_over_all_loops(source: PostSource) -> Callable[[], float]:
    """A function that returns how much of the source was read, the earlier loops included."""
    earlier_loops = last = 0

    def done() -> float:
        nonlocal earlier_loops, last
        if source.done < last:
            earlier_loops += source.total or 0
        last = source.done
        return earlier_loops + last

    return done
