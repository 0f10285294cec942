"""The command `btfeed flow init`: a definition to begin with, made of a profile of generated traffic."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from btfeed.commands.init import STANDARD, write_new
from btfeed.commands.outputs import check_apart
from btfeed.commands.terminal import fail
from btfeed.faults import ConfigError


def init(
    profile: Annotated[
        str,
        typer.Option(
            "--profile", metavar="PROFILE", show_default=False,
            help="web-shop, flight-search, loan-application, or the TOML file of a profile, as btfeed generate takes it.",
        ),
    ],
    output: Annotated[
        Optional[Path],
        typer.Option(
            "-o", "--output", metavar="FILE", show_default=False,
            help="The file to write, which must not exist. Default: standard output.",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Write a definition of the flows that a profile generates, as a start for one of your own."""
    from btfeed.flow.drafts import of_profile  # slow to import, and not needed by every command
    from btfeed.traffic import profile as profiles

    try:
        text = of_profile(profiles.load(profile))
    except ConfigError as error:
        fail("\n".join([f"invalid profile {profile}:", *error.faults]), 2)
    from btfeed.flow.definition import shipped

    if profile in shipped():
        typer.echo(
            f"btfeed has a definition {profile}, which fits these records better and needs no file: btfeed flow report"
            f" {profile} SOURCE. What is written is a start for one of your own",
            err=True,
        )
    if output is None or output == STANDARD:
        typer.echo(text, nl=False)
        return
    if profile not in profiles.shipped():
        check_apart({"--output": output}, [Path(profile)])
    write_new(output, text)
    typer.echo(f"wrote {output}. Compare it with records: btfeed flow check {output} SOURCE", err=True)
