"""The commands that make and take posts: replay, capture, generate."""

import asyncio
import base64
import json
import signal
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Optional, TextIO

import typer
import uvloop

from btfeed.address import host_and_port
from btfeed.commands import terminal
from btfeed.commands.moments import moment
from btfeed.commands.terminal import fail
from btfeed.faults import ConfigError
from btfeed.posts import files as postfile
from btfeed.receiving.receiver import TlsSettings
from btfeed.traffic import profile as profiles
from btfeed.traffic.capture import CONNECTIONS, Capture, Captured
from btfeed.traffic.generate import BULK_SIZE, MONDAY, Order
from btfeed.traffic.generate import generate as make
from btfeed.traffic.replay import EARLIEST, LATEST, Files, JournalRange, Plan, Source, SourceError
from btfeed.traffic.sending import Answer, File, Outgoing, Sender, Summary, Target, Url
from sinks.shared.tls import client_context

traffic = typer.Typer()

UrlOption = Annotated[str, typer.Option("--url", help="Where to post to.")]
OutOption = Annotated[Optional[Path], typer.Option("--out", help="Write *.btposts, *.btposts.gz or - instead of posting.")]
Connections = Annotated[int, typer.Option(min=1, max=1000, help="Kept-alive connections.")]
User = Annotated[Optional[str], typer.Option(help="Basic auth: name:password.")]
Ca = Annotated[Optional[Path], typer.Option(help="PEM file of who signed the server's certificate.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Take any certificate, as AppMon's untrusted SSL does.")]
Rejects = Annotated[Optional[Path], typer.Option(help="Write each refused post here with its answer, as a line of JSON.")]
Retry = Annotated[bool, typer.Option("--retry", help="Post again what got no answer; it may then be there twice.")]
AsJson = Annotated[bool, typer.Option("--json", help="The summary as a JSON object.")]
URL = "http://127.0.0.1:4321/"


def _now() -> int:
    return time.time_ns() // 1_000_000


def _moment(text: str | None, option: str) -> int | None:
    try:
        return None if text is None else moment(text, _now())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _target(
    url: str, out: Path | None, connections: int, user: str | None, ca: Path | None, insecure: bool, paced: bool
) -> Target:
    name, colon, password = (user or ":").partition(":")
    if not colon:
        raise typer.BadParameter("write it as name:password", param_hint="--user")
    if out is not None:
        return File(_writer(out), prompt=paced)
    terminal.check_url(url)
    basic_auth = (name, password) if user else None
    return Url(url, connections=connections, basic_auth=basic_auth, tls=_tls(ca, insecure))


def _writer(out: Path, new: bool = False) -> postfile.Writer:
    try:
        return postfile.Writer(out, new=new)
    except postfile.PostFileError as error:
        fail(str(error))


def _tls(ca: Path | None, insecure: bool) -> ssl.SSLContext | None:
    if not ca and not insecure:
        return None
    try:
        context = client_context(ca)
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--ca") from None
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@contextmanager
def _rejects(path: Path | None) -> Iterator[Callable[[bytes, Answer], object]]:
    """Writes what was refused, if anybody wants to have it."""
    try:
        opened: AbstractContextManager[TextIO | None] = path.open("w", encoding="utf-8") if path else nullcontext()
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    with opened as file:

        def write(body: bytes, answer: Answer) -> None:
            if file:
                text = {"status": answer.status, "answer": answer.text, "body": base64.b64encode(body).decode()}
                file.write(json.dumps(text, ensure_ascii=False) + "\n")

        yield write


@dataclass(frozen=True, slots=True)
class _Run:
    """How posts are sent, whoever made them."""

    target: Target
    out: Path | None
    connections: int
    retry: bool
    rejects: Path | None
    as_json: bool

    def send(
        self,
        posts: Iterator[Outgoing],
        done: Callable[[], float] = lambda: 0,
        total: float | None = None,
        blocking: bool = False,
    ) -> tuple[Summary, bool]:
        """What became of them, and whether somebody broke off."""
        stop = asyncio.Event()
        with _rejects(self.rejects) as rejected:
            sender = Sender(
                self.target, connections=1 if self.out else self.connections, retry=self.retry, rejected=rejected,
                progress=lambda size: look(), stop=stop, blocking=blocking,
            )  # fmt: skip
            with terminal.progress(sender, done, total) as look:
                try:
                    summary = uvloop.run(_until_stopped(sender, posts, stop))
                except (postfile.PostFileError, OSError) as error:
                    fail(str(error))
        terminal.show(summary, self.as_json, err=self.out == postfile.STANDARD)
        return summary, stop.is_set()


async def _until_stopped(sender: Sender, posts: Iterator[Outgoing], stop: asyncio.Event) -> Summary:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await sender.send(posts)


@traffic.command()
def replay(
    sources: Annotated[
        Optional[list[str]],
        typer.Argument(help="*.bin, *.btposts, these with .gz, folders of them, - for stdin; a url may stand last."),
    ] = None,
    url: UrlOption = URL,
    out: OutOption = None,
    journal: Annotated[Optional[Path], typer.Option(help="A journal's directory, in the place of files.")] = None,
    begin: Annotated[Optional[str], typer.Option("--from", help="First time of receipt: 2026-01-16T10:05, or 24h.")] = None,
    end: Annotated[Optional[str], typer.Option("--to", help="Likewise; posts received then are out of it.")] = None,
    rate: Annotated[Optional[float], typer.Option(min=0.001, help="So many a second; else as fast as answered.")] = None,
    unit: Annotated[Literal["posts", "occurrences"], typer.Option(help="What --rate counts.")] = "posts",
    speed: Annotated[Optional[str], typer.Option(help="After the recorded times: 1x, 10x, 0.5x; or max.")] = None,
    loop: Annotated[int, typer.Option(min=0, help="How many times over; 0: until stopped.")] = 1,
    connections: Connections = 1,
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="Move all times by one offset, so that the newest is now.")
    ] = False,
    user: User = None,
    ca: Ca = None,
    insecure: Insecure = False,
    rejects: Rejects = None,
    retry: Retry = False,
    as_json: AsJson = False,
) -> None:
    """Post recorded posts to a url, as AppMon does, or write them to a file: each goes out once, whatever is answered."""
    sources = list(sources or ())
    if sources and "://" in sources[-1]:
        url = sources.pop()
    if not sources and journal is None:
        raise typer.BadParameter("name files or folders of posts before the url, or a --journal", param_hint="SOURCES")
    if sources and journal:
        raise typer.BadParameter("replay either files or a journal", param_hint="--journal")
    if journal is None and (begin or end):
        raise typer.BadParameter("only the posts of a --journal have a time of receipt", param_hint="--from")
    if out is None:
        terminal.check_url(url)
    plan = Plan(rate, unit, _speed(speed, rate), loop, _now if shift_to_now else None)
    with ExitStack() as stack:
        try:
            source: Source
            if journal:
                moments = (_moment(begin, "--from"), _moment(end, "--to"))
                source = JournalRange(
                    journal, *(m if m is not None else d for m, d in zip(moments, (EARLIEST, LATEST), strict=True))
                )
            else:
                paths = postfile.find(map(Path, sources))
                source = Files(_kept(paths, stack) if shift_to_now or loop != 1 else paths)
        except (postfile.PostFileError, SourceError) as error:
            fail(str(error))
        target = _target(url, out, connections, user, ca, insecure, paced=bool(rate or plan.speed))
        run = _Run(target, out, connections, retry, rejects, as_json)
        total = source.total * loop if source.total and loop else None
        summary, broken_off = run.send(plan.outgoing(source), _over_all_turns(source), total, source.blocking)
    if source.broken:
        fail("\n".join(source.broken))
    if broken_off or summary.refused or summary.unknown:
        raise typer.Exit(1)


def _speed(text: str | None, rate: float | None) -> float | None:
    if text in (None, "max"):
        return None
    assert text is not None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e9:
        raise typer.BadParameter(f'{text!r} is no speed: write "1x", "10x" or "max"', param_hint="--speed")
    if rate:
        raise typer.BadParameter("either a --rate or a --speed", param_hint="--speed")
    return speed


def _over_all_turns(source: Source) -> Callable[[], float]:
    """What was read of the source, earlier turns included."""
    before = last = 0

    def done() -> float:
        nonlocal before, last
        if source.done < last:
            before += source.total or 0
        last = source.done
        return before + last

    return done


def _kept(paths: list[Path], stack: ExitStack) -> list[Path]:
    """`paths` with what comes on standard input kept in a file, so that it can be read more than once."""
    if postfile.STANDARD not in paths:
        return paths
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    kept = directory / "stdin.btposts"
    writer = postfile.Writer(kept)
    try:
        for body in postfile.read(postfile.STANDARD):
            writer.write(body)
    finally:
        writer.close()
    return [kept if path == postfile.STANDARD else path for path in paths]


@traffic.command()
def capture(
    out: Annotated[Path, typer.Option(help="*.btposts or *.btposts.gz; a file that is not there yet.")],
    listen: Annotated[str, typer.Option(help="Where AppMon posts to.")] = "127.0.0.1:4321",
    forward: Annotated[Optional[str], typer.Option(help="Pass each post on to this url.")] = None,
    max_posts: Annotated[Optional[int], typer.Option(min=1, help="Stop after so many.")] = None,
    certificate: Annotated[Optional[Path], typer.Option(help="PEM file, for HTTPS.")] = None,
    key: Annotated[Optional[Path], typer.Option(help="PEM file of its private key.")] = None,
    ca: Ca = None,
    insecure: Insecure = False,
    as_json: AsJson = False,
) -> None:
    """Record what AppMon posts, byte by byte, until SIGTERM or Ctrl-C; on the way to another receiver if wanted."""
    if forward:
        terminal.check_url(forward, "--forward")
    try:
        host, port = host_and_port(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from None
    tls = None
    try:
        if certificate:
            tls = TlsSettings(certificate=str(certificate), key=str(key or certificate)).context()
        far_end = Url(forward, connections=CONNECTIONS, tls=_tls(ca, insecure)) if forward else None
        captured = uvloop.run(_capture(_writer(out, new=True), host, port, far_end, max_posts, tls))
    except (postfile.PostFileError, OSError) as error:
        fail(f"can't capture: {error}")
    if as_json:
        typer.echo(json.dumps(captured.as_json(), ensure_ascii=False))
        return
    passed_on = f", {captured.forwarded} passed on" if forward else ""
    typer.echo(f"{captured.posts} posts, {captured.bytes} bytes in {out}{passed_on}")
    for why, number in captured.not_forwarded.items():
        typer.echo(f"not passed on {number}: {why}")


async def _capture(
    writer: postfile.Writer, host: str, port: int, far_end: Url | None, max_posts: int | None, tls: ssl.SSLContext | None
) -> Captured:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    capturing = Capture(writer, stop, forward=far_end, max_posts=max_posts, tls=tls)
    host, port = await capturing.start(host, port)
    typer.echo(f"listening at {host}:{port}", err=True)
    return await capturing.run()


@traffic.command()
def generate(
    profile: Annotated[str, typer.Argument(help="web-shop, flight-search, loan-application, or a TOML file.")],
    url: Annotated[str, typer.Argument(help="Where to post to.")] = URL,
    out: OutOption = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal bytes.")] = 0,
    since: Annotated[Optional[str], typer.Option(help="History from 24h ago, or 2026-01-16T10:05, on.")] = None,
    until: Annotated[Optional[str], typer.Option(help="To where; by default to now.")] = None,
    flows: Annotated[Optional[int], typer.Option(min=1, help="History of so many flows, all of them whole.")] = None,
    rate: Annotated[Optional[float], typer.Option(min=0.001, help="Flows a second, whatever the hour.")] = None,
    time_scale: Annotated[float, typer.Option(min=0.001, help="Divides the times between steps.")] = 1.0,
    bulk_size: Annotated[int, typer.Option(min=1, max=100_000, help="Occurrences in a post at most.")] = BULK_SIZE,
    connections: Connections = 1,
    user: User = None,
    ca: Ca = None,
    insecure: Insecure = False,
    rejects: Rejects = None,
    retry: Retry = False,
    show: Annotated[bool, typer.Option("--show", help="Print the profile, to begin one of your own.")] = False,
    as_json: AsJson = False,
) -> None:
    """Post what an AppMon server would of a business process: live until stopped, or its history at once."""
    try:
        loaded = profiles.load(profile)
    except ConfigError as error:
        fail("\n".join([f"the profile {profile} has faults:", *error.faults]), 2)
    if show:
        typer.echo(profiles.shipped().get(profile) or Path(profile).read_text(encoding="utf-8"), nl=False)
        return
    now = _now()
    begin, end = _moment(since, "--since"), _moment(until, "--until")
    live = begin is None and flows is None
    if until and live:
        raise typer.BadParameter("says where the history ends that begins with --since", param_hint="--until")
    if begin is None:
        begin = now if live else MONDAY
    if end is None and not live and flows is None:
        end = now
    order = Order(loaded, seed, begin, end, flows, rate, time_scale, bulk_size, live)
    target = _target(url, out, connections, user, ca, insecure, paced=live)
    summary, broken_off = _Run(target, out, connections, retry, rejects, as_json).send(make(order))
    if summary.refused or summary.unknown or (broken_off and not live):
        raise typer.Exit(1)
