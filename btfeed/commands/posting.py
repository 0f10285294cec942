"""What `replay` and `generate` have in common: their options for sending posts, and how they send them."""

import asyncio
import base64
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional, TextIO

import typer

from btfeed.commands import terminal
from btfeed.commands.moments import moment
from btfeed.commands.terminal import fail
from btfeed.posts import files as postfile
from btfeed.signals import stop_on_signals
from btfeed.traffic.sending import FileTarget, Outcome, ScheduledPost, Sender, SendSummary, Target
from sinks.shared.clock import SYSTEM_CLOCK
from sinks.shared.tls import client_context

DEFAULT_URL = "http://127.0.0.1:4321/"

CONNECTION, RESULTS = "Connection to the server", "Results"
"""Headings in --help."""

OutOption = Annotated[
    Optional[Path],
    typer.Option(
        "--out",
        metavar="FILE",
        help="Write the posts to this *.btposts or *.btposts.gz file instead of sending them; - is stdout.",
    ),
]
ConnectionsOption = Annotated[
    int,
    typer.Option(
        "--connections", min=1, max=1000, metavar="N", rich_help_panel=CONNECTION,
        help="Number of kept-alive connections. With more than one, posts may overtake each other.",
    ),
]  # fmt: skip
UserOption = Annotated[
    Optional[str],
    typer.Option("--user", metavar="NAME:PASSWORD", rich_help_panel=CONNECTION, help="Credentials for Basic auth."),
]
CaOption = Annotated[
    Optional[Path],
    typer.Option(
        "--ca", metavar="FILE", rich_help_panel=CONNECTION, help="PEM file with the CA of the server's certificate."
    ),
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", rich_help_panel=CONNECTION, help="Accept any server certificate.")
]
RetryOption = Annotated[
    bool,
    typer.Option(
        "--retry", rich_help_panel=CONNECTION, help="Send a post without an answer again. It may then arrive twice."
    ),
]
RejectsOption = Annotated[
    Optional[Path],
    typer.Option(
        "--rejects", metavar="FILE", rich_help_panel=RESULTS,
        help="Write each refused post and its answer to this file, as one JSON object per line.",
    ),
]  # fmt: skip
JsonOption = Annotated[bool, typer.Option("--json", rich_help_panel=RESULTS, help="Print the summary as JSON.")]


def now() -> int:
    """Milliseconds since the epoch."""
    return int(SYSTEM_CLOCK.time() * 1000)


def parse_moment(text: str | None, option: str) -> int | None:
    """Milliseconds since the epoch. Raises BadParameter."""
    try:
        return None if text is None else moment(text, now())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def create_target(
    url: str, out: Path | None, connections: int, user: str | None, ca: Path | None, insecure: bool, paced: bool
) -> Target:
    """The file `out` if given, otherwise `url`. paced: posts are due at different times, so each is flushed to the file."""
    name, colon, password = (user or ":").partition(":")
    if not colon:
        raise typer.BadParameter("write it as NAME:PASSWORD", param_hint="--user")
    if out is not None:
        return FileTarget(open_writer(out), flush=paced)
    terminal.check_url(url)
    from btfeed.traffic.http_target import HttpTarget  # slow to import, and not needed to write to a file

    basic_auth = (name, password) if user else None
    return HttpTarget(url, connections=connections, basic_auth=basic_auth, tls=client_tls(ca, insecure))


def open_writer(out: Path, new: bool = False) -> postfile.Writer:
    """new: fail if the file exists."""
    try:
        return postfile.Writer(out, new=new)
    except postfile.PostFileError as error:
        fail(str(error))


def client_tls(ca: Path | None, insecure: bool) -> ssl.SSLContext | None:
    if not ca and not insecure:
        return None
    try:
        context = client_context(ca, ca_only=True)
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--ca") from None
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@dataclass(frozen=True, slots=True)
class SendJob:
    """How a command sends its posts. out: the file of `target`, if it is one."""

    target: Target
    out: Path | None
    connections: int
    retry: bool
    rejects: Path | None
    json_output: bool

    def run(
        self,
        posts: Iterator[ScheduledPost],
        done: Callable[[], float] = lambda: 0,
        total: float | None = None,
        read_in_thread: bool = False,
    ) -> tuple[SendSummary, bool]:
        """Send the posts, show the progress and print the summary. Returns it, and whether a signal ended the run early."""
        import uvloop  # slow to import, and not needed by every command

        stop = asyncio.Event()
        with _rejects_file(self.rejects) as write_reject:
            sender = Sender(
                self.target, connections=1 if self.out else self.connections, retry=self.retry, on_refused=write_reject,
                on_done=lambda: update(), stop=stop, read_in_thread=read_in_thread,
            )  # fmt: skip
            with terminal.progress(sender, done, total) as update:
                try:
                    summary = uvloop.run(_until_stopped(sender, posts, stop))
                except (postfile.PostFileError, OSError) as error:
                    fail(str(error))
        to_stdout = self.out == postfile.STANDARD
        verb = "accepted" if self.out is None else f"written to {'stdout' if to_stdout else self.out}"
        terminal.show(summary, verb, self.json_output, err=to_stdout)
        return summary, stop.is_set()


async def _until_stopped(sender: Sender, posts: Iterator[ScheduledPost], stop: asyncio.Event) -> SendSummary:
    stop_on_signals(stop)
    return await sender.send(posts)


@contextmanager
def _rejects_file(path: Path | None) -> Iterator[Callable[[bytes, Outcome], None]]:
    """Yields a function that writes a refused post to the file at `path`, if one is given."""
    try:
        opened: AbstractContextManager[TextIO | None] = path.open("w", encoding="utf-8") if path else nullcontext()
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    with opened as file:

        def write(body: bytes, outcome: Outcome) -> None:
            if file:
                reject = {"status": outcome.status, "answer": outcome.reason, "body": base64.b64encode(body).decode()}
                file.write(json.dumps(reject, ensure_ascii=False) + "\n")

        yield write
