"""The command `btfeed capture`."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from btfeed.address import host_and_port
from btfeed.app.in_use import explain
from btfeed.commands.connection import CONNECTION, CaOption, InsecureOption, client_tls
from btfeed.commands.log_options import FORMAT, LEVEL, LogFormat, LogLevel, configure_logs
from btfeed.commands.outputs import check_name, open_outputs
from btfeed.commands.posting import JsonOption
from btfeed.commands.terminal import fail
from btfeed.commands.urls import check_url
from btfeed.commands.usage import refuse_useless
from btfeed.posts import files as postfile
from btfeed.signals import stop_on_signals
from btfeed.telemetry.wording import count

if TYPE_CHECKING:
    from btfeed.traffic.capture import Capture, CaptureSummary


def capture(
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="New *.btposts or *.btposts.gz file to write the posts to; - is stdout.")
    ],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address that AppMon posts to.")] = "127.0.0.1:4321",
    max_posts: Annotated[Optional[int], typer.Option(min=1, metavar="N", help="Stop after this many posts.")] = None,
    certificate: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="PEM file with a certificate, to listen with HTTPS.")
    ] = None,
    key: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="PEM file with its private key, unless that is in the file of --certificate."),
    ] = None,
    forward: Annotated[
        Optional[str],
        typer.Option(metavar="URL", rich_help_panel=CONNECTION, help="Also send each post to this URL."),
    ] = None,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    json_output: JsonOption = False,
    log_level: LogLevel = LEVEL,
    log_format: LogFormat = FORMAT,
) -> None:
    """Record the posts of an AppMon server in a file, byte for byte, until Ctrl-C or SIGTERM.

    Listens in place of the server that AppMon posts to. With --forward, that server gets the posts as well.
    """
    import uvloop  # all are slow to import, and not needed by every command

    from btfeed.receiving.settings import TlsSettings
    from btfeed.traffic.capture import FORWARD_CONNECTIONS, Capture
    from btfeed.traffic.http_target import HttpTarget

    configure_logs(log_level, log_format)
    _check_usage(listen, certificate, forward)
    out = postfile.standard(out)
    tls = TlsSettings(certificate=str(certificate), key=str(key or certificate)) if certificate else None
    check_name(out)
    try:
        if tls:
            tls.context()
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--certificate") from None
    target = HttpTarget(forward, connections=FORWARD_CONNECTIONS, tls=client_tls(ca, insecure)) if forward else None
    try:
        file = open_outputs({"--out": out}, filter(None, (certificate, key, ca)), new=True)["--out"]
        stop = asyncio.Event()
        capturing = Capture(postfile.Writer(out, file), stop, listen=listen, forward=target, max_posts=max_posts, tls=tls)
        summary = uvloop.run(_run(capturing, stop, listen, out))
    except (postfile.PostFileError, OSError) as error:
        fail(f"cannot capture: {error}")
    text = json.dumps(summary.as_dict(), ensure_ascii=False) if json_output else "\n".join(_lines(summary, out, forward))
    typer.echo(text, err=out == postfile.STANDARD)


def _check_usage(listen: str, certificate: Path | None, forward: str | None) -> None:
    """Raises BadParameter."""
    if forward:
        check_url(forward, "--forward")
    else:
        refuse_useless(["ca", "insecure"], "only useful with --forward")
    if not certificate:
        refuse_useless(["key"], "it needs the certificate of that key: add --certificate")
    try:
        host_and_port(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from None


async def _run(capturing: "Capture", stop: asyncio.Event, listen: str, out: Path) -> "CaptureSummary":
    stop_on_signals(stop)
    try:
        host, port = await capturing.start()
    except (OSError, UnicodeError) as error:
        capturing.close()
        if await asyncio.to_thread(out.is_file):
            await asyncio.to_thread(out.unlink)  # empty; the next attempt would fail because it exists
        fail(explain(listen, error) if isinstance(error, OSError) else f"can't listen on {listen}: {error}")
    typer.echo(f"listening on {host}:{port}", err=True)
    return await capturing.run()


def _lines(summary: "CaptureSummary", out: Path, forward: str | None) -> Iterator[str]:
    forwarded = f", {summary.forwarded} forwarded" if forward else ""
    yield f"{count(summary.posts, 'post')} captured ({summary.bytes} bytes) in {out}{forwarded}"
    for reason, number in summary.refused.items():
        yield f"{count(number, 'request')} refused: {reason}"
    for reason, number in summary.not_forwarded.items():
        yield f"{count(number, 'post')} not forwarded: {reason}"
