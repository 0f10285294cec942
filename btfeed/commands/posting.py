"""What `replay` and `generate` have in common: their options for sending posts, and how they send them."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, BinaryIO, Optional

import typer

from btfeed.commands import terminal
from btfeed.commands.connection import CONNECTION, Access
from btfeed.commands.moments import moment
from btfeed.commands.outputs import check_name, open_outputs
from btfeed.commands.terminal import fail
from btfeed.commands.urls import check_url
from btfeed.commands.usage import refuse_useless
from btfeed.posts import files as postfile
from btfeed.signals import Interrupted, Interruptible, StopSignals
from btfeed.traffic.sending import FileTarget, Outcome, ScheduledPost, Sender, SendSummary, Target
from sinks.shared.clock import SYSTEM_CLOCK

DEFAULT_URL = "http://127.0.0.1:4321/"

SENDING = ("url", "connections", "user", "bearer", "certificate", "key", "ca", "insecure", "retry")
"""Parameters of commands that have no effect on posts that are written to a file."""
RESULTS = "Results"
"""Heading in --help."""

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


class SendJob:
    """How a command sends its posts. Raises BadParameter if an option is wrong."""

    def __init__(
        self,
        url: str,
        out: Path | None,
        connections: int,
        access: Access,
        retry: bool,
        rejects: Path | None,
        json_output: bool,
    ) -> None:
        if out:
            refuse_useless(SENDING, "the posts are written to a file: leave it out, or --out")
        self._out = postfile.standard(out) if out else None
        self._connections = 1 if out else connections
        self._retry = retry
        self._rejects = rejects
        self._json_output = json_output
        self._inputs = access.files()
        self._url_target: Target | None = None
        if self._out is None:
            check_url(url)
            self._url_target = _url_target(url, connections, access)
        else:
            check_name(self._out)

    def run(
        self,
        posts: Iterator[ScheduledPost],
        inputs: Iterable[Path] = (),
        *,
        broken: Sequence[str] = (),
        paced: bool = False,
        done: Callable[[], float] = lambda: 0,
        total: float | None = None,
        blocking: bool = False,
    ) -> tuple[SendSummary, bool]:
        """Send the posts, show the progress and print the summary. Returns it, and whether a signal ended the run early.

        inputs    the files that `posts` are read from
        broken    what could not be read so far
        paced     posts are due at different times, so each is flushed to the file
        blocking  reading the next post may block, as on standard input
        """
        stop = StopSignals()
        try:
            with stop.handled():
                in_thread = blocking and self._url_target is not None  # answers arrive meanwhile
                started = posts if in_thread else _begin(Interruptible(posts, stop), stop, broken)
                with stop.interrupting():  # a named pipe waits for its reader
                    files = open_outputs({"--out": self._out, "--rejects": self._rejects}, [*inputs, *self._inputs])
                target = self._url_target or self._file_target(files["--out"], paced)
                with _writing_rejects(self._rejects, files.get("--rejects")) as write_reject:
                    sender = Sender(
                        target, connections=self._connections, retry=self._retry, on_refused=write_reject,
                        on_done=lambda: update(), stop=stop.event, read_in_thread=in_thread,
                    )  # fmt: skip
                    with terminal.progress(sender, done, total) as update:
                        _send(sender, started, stop)
                self._show(sender.summary)
        except (postfile.PostFileError, OSError) as error:
            fail(str(error))
        except Interrupted:
            fail("stopped by a signal before the outputs were open")
        return sender.summary, stop.requested

    def _file_target(self, file: BinaryIO, paced: bool) -> Target:
        assert self._out
        return FileTarget(postfile.Writer(self._out, file), flush=paced)

    def _show(self, summary: SendSummary) -> None:
        to_stdout = self._out == postfile.STANDARD
        verb = "accepted" if self._out is None else f"written to {'stdout' if to_stdout else self._out}"
        terminal.show(summary, verb, self._json_output, err=to_stdout)


def _send(sender: Sender, posts: Iterator[ScheduledPost], stop: StopSignals) -> None:
    import uvloop  # slow to import, and not needed by every command

    async def send() -> None:
        with stop.in_loop():
            await sender.send(posts)

    uvloop.run(send())


def _url_target(url: str, connections: int, access: Access) -> Target:
    from btfeed.traffic.http_target import HttpTarget  # slow to import, and not needed to write to a file

    return HttpTarget(url, connections=connections, authorization=access.authorization(url), tls=access.tls(url))


def _begin(posts: Iterator[ScheduledPost], stop: StopSignals, broken: Sequence[str]) -> Iterator[ScheduledPost]:
    """`posts`, after the first one has been read. Exits if there is none, so the outputs stay as they are."""
    first = next(posts, None)
    if first is None and broken:
        fail("\n".join(broken))
    if first is None and stop.requested:
        fail("stopped by a signal before the first post")
    return posts if first is None else chain([first], posts)


@contextmanager
def _writing_rejects(path: Path | None, file: BinaryIO | None) -> Iterator[Callable[[bytes, Outcome], None]]:
    """Yields a function that writes a refused post to the file, if one is given. It raises PostFileError."""

    def write(body: bytes, outcome: Outcome) -> None:
        if file:
            reject = {"status": outcome.status, "answer": outcome.reason, "body": base64.b64encode(body).decode()}
            with _named(path):
                file.write(json.dumps(reject, ensure_ascii=False).encode() + b"\n")

    try:
        yield write
    finally:
        if file:
            with _named(path):
                file.close()


@contextmanager
def _named(path: Path | None) -> Iterator[None]:
    """Turns an OSError into a PostFileError with the name of the file."""
    try:
        yield
    except OSError as error:
        raise postfile.PostFileError(f"{path}: {error.strerror}") from None
