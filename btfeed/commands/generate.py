"""The command `btfeed generate`."""

from pathlib import Path
from typing import Annotated, Optional

import typer

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
from btfeed.commands.urls import looks_like_url, shown
from btfeed.faults import ConfigError
from btfeed.traffic import profile as profiles
from btfeed.traffic.generate import BULK_SIZE, DEFAULT_BEGIN, GenerateOptions
from btfeed.traffic.generate import generate as generate_posts

CONTENT = "What to generate"
"""Heading in --help."""

ProfileArgument = Annotated[
    str,
    typer.Argument(
        metavar="PROFILE", autocompletion=lambda: list(profiles.shipped()),
        help="web-shop, flight-search, loan-application, or a TOML file.",
    ),
]  # fmt: skip
UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="Where to send the posts.")]
ShowOption = Annotated[bool, typer.Option("--show", help="Print the profile instead, as a start for one of your own.")]
SinceOption = Annotated[
    Optional[str],
    typer.Option(
        metavar="TIME", rich_help_panel=CONTENT,
        help="Generate the posts from this time on, at once: 2026-01-16T10:05 (UTC), or 24h for 24 hours ago.",
    ),
]  # fmt: skip
UntilOption = Annotated[
    Optional[str],
    typer.Option(metavar="TIME", rich_help_panel=CONTENT, help="With --since: where to end. Default: now."),
]
FlowsOption = Annotated[
    Optional[int],
    typer.Option(min=1, metavar="N", rich_help_panel=CONTENT, help="Generate this many complete visits, at once."),
]
RateOption = Annotated[
    Optional[float],
    typer.Option(
        min=0.001, metavar="N", rich_help_panel=CONTENT,
        help="Begin this many visits per second at any hour. Default: as the profile says.",
    ),
]  # fmt: skip
TimeScaleOption = Annotated[
    float,
    typer.Option(
        min=0.001, metavar="N", rich_help_panel=CONTENT, help="Divide the times between the steps of a visit by this."
    ),
]
BulkSizeOption = Annotated[
    int, typer.Option(min=1, max=100_000, metavar="N", rich_help_panel=CONTENT, help="Maximum occurrences per post.")
]
SeedOption = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=CONTENT, help="Equal seeds and options give equal posts.")
]


def generate(
    profile: ProfileArgument,
    url: UrlArgument = DEFAULT_URL,
    out: OutOption = None,
    show: ShowOption = False,
    since: SinceOption = None,
    until: UntilOption = None,
    flows: FlowsOption = None,
    rate: RateOption = None,
    time_scale: TimeScaleOption = 1.0,
    bulk_size: BulkSizeOption = BULK_SIZE,
    seed: SeedOption = 0,
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
    """Send posts as an AppMon server would for the business process of a profile, or write them to a file.

    Without --since and --flows, posts are sent live, each when it is due, until Ctrl-C or SIGTERM.
    """
    configure_logs(log_level, log_format)
    if looks_like_url(profile):
        raise typer.BadParameter(f"name a profile before the URL {shown(profile)}", param_hint="PROFILE")
    try:
        loaded = profiles.load(profile)
    except ConfigError as error:
        fail("\n".join([f"invalid profile {profile}:", *error.faults]), 2)
    if show:
        typer.echo(profiles.shipped().get(profile) or Path(profile).read_text(encoding="utf-8-sig"), nl=False)
        return
    begin, end = parse_moment(since, "--since"), parse_moment(until, "--until")
    live = begin is None and flows is None
    if until and live:
        raise typer.BadParameter("only useful with --since", param_hint="--until")
    if begin is None:
        begin = now() if live else DEFAULT_BEGIN
    if end is None and not live and flows is None:
        end = now()
    if end is not None and end <= begin:
        raise typer.BadParameter("must be later than --since", param_hint="--until")
    options = GenerateOptions(loaded, seed, begin, end, flows, rate, time_scale, bulk_size, live)
    access = Access(user, bearer, certificate, key, ca, insecure)
    job = SendJob(url, out, connections, access, retry, rejects, json_output)
    inputs = [] if profile in profiles.shipped() else [Path(profile)]
    summary, stopped = job.run(generate_posts(options), inputs, paced=live)
    if stopped and not live:
        fail("stopped by a signal: the remaining posts were not sent")
    if summary.refused or summary.unknown:
        raise typer.Exit(1)
