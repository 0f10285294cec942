"""The command `btfeed status`: how a running server is doing, once or again and again."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Optional
from urllib.parse import urlsplit

import typer

from btfeed.commands.admin_client import AdminClient, AdminError
from btfeed.commands.config_file import ConfigFile, load
from btfeed.commands.connection import client_tls
from btfeed.commands.moments import seconds
from btfeed.commands.secrets import token as read_token
from btfeed.commands.terminal import fail
from btfeed.commands.urls import check_url
from btfeed.commands.usage import refuse_useless
from btfeed.records.encoding import rfc3339
from btfeed.telemetry.printable import printable
from btfeed.telemetry.wording import count, duration, size
from sinks.shared.clock import SYSTEM_CLOCK

ENDS_SOON = 14 * 86_400_000
"""Milliseconds before the end of a certificate in which it is shown."""
TOKEN_VARIABLE = "BTFEED_ADMIN_TOKEN"  # noqa: S105 - its name
"""Environment variable that stands for --token."""

UrlOption = Annotated[
    Optional[str],
    typer.Option(
        "--url", metavar="URL",
        help="Ask the admin listener there, such as http://127.0.0.1:4322, and use no configuration.",
    ),
]  # fmt: skip
TokenOption = Annotated[
    Optional[str],
    typer.Option("--token", metavar="TOKEN", help=f"With --url: its admin.token; also as @FILE, or in ${TOKEN_VARIABLE}."),
]
CaOption = Annotated[
    Optional[Path],
    typer.Option("--ca", metavar="FILE", help="With an https --url: PEM file with the CA of the server's certificate."),
]


def admin_client(config: Path | None, url: str | None, token: str | None, ca: Path | None) -> AdminClient:
    """For the server at `url`, or else for that of the configuration. Raises BadParameter; exits if the configuration has
    faults."""
    if url is None:
        if token is not None:
            raise typer.BadParameter("the configuration has the token: use it with --url only", param_hint="--token")
        if ca is not None:
            raise typer.BadParameter("only useful with --url", param_hint="--ca")
        return AdminClient.configured(load(config, needs=("admin",)))
    refuse_useless(["config"], "with --url, no configuration is read: leave out one of them")
    check_url(url, "--url")
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise typer.BadParameter("leave out the credentials: the server takes a token, see --token", param_hint="--url")
    if ca and parts.scheme != "https":
        raise typer.BadParameter("only useful with a --url that starts with https://", param_hint="--ca")
    hint = "--token"
    if token is None:
        token, hint = os.environ.get(TOKEN_VARIABLE), f"${TOKEN_VARIABLE}"
    return AdminClient(url, None if token is None else read_token(token, hint), tls=client_tls(ca, insecure=False))


def status(
    config: ConfigFile = None,
    url: UrlOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON of the admin listener's /status.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again and again, with rates and trends, until Ctrl-C.")
    ] = False,
    interval: Annotated[
        Optional[str], typer.Option(metavar="TIME", help="With --watch: how often to ask. Default: 2s.")
    ] = None,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="Ask the brokers of a journal in Kafka instead: its topics, and who delivers to each sink, and how far.",
        ),
    ] = False,
) -> None:
    """Show the state of a running server: posts, journal, sinks and violations.

    The exit status is 0 if the server would accept a post now, otherwise 1. With --cluster, it is 0 if all topics have
    leaders, and every sink with posts to deliver has a process that does it.
    """
    if cluster:
        from btfeed.commands import cluster as of_cluster  # not needed otherwise

        refuse_useless(("url", "token", "ca", "watch", "interval"), "not with --cluster, which asks the brokers")
        of_cluster.show(config, as_json)
        return
    every = _interval(interval, watch)
    client = admin_client(config, url, token, ca)
    if watch:
        from btfeed.commands import watch as watching  # not needed otherwise

        watching.run(client.status, every, as_json)
        return
    try:
        text = client.status()
    except AdminError as error:
        fail(str(error))
    found = json.loads(text)
    typer.echo(text if as_json else printable("\n".join(_lines(found))))
    if not found["ready"]:
        raise typer.Exit(1)


def _interval(text: str | None, watch: bool) -> float:
    if text is None:
        return 2.0
    if not watch:
        raise typer.BadParameter("only useful with --watch", param_hint="--interval")
    try:
        found = seconds(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--interval") from None
    if found < 0.1:
        raise typer.BadParameter("ask at most ten times a second: write 100ms or more", param_hint="--interval")
    return found


def _lines(status: dict[str, Any]) -> Iterator[str]:
    counts = status["counts"]
    ready = "ready" if status["ready"] else f"NOT READY: {status['refusing']}"
    yield f"btfeed {status['version']}{_who(status)}, up {duration(status['uptime_seconds'])}, {ready}"
    yield from _worker_lines(status)
    if status.get("role") != "deliver":
        yield _received_line(counts)
    if not status.get("prefix"):
        yield f"journal: {count(counts['journal_posts'], 'post')}, {journal(counts)}"
    elif counts["journal_limit_bytes"]:  # what is in Kafka, `--cluster` tells
        yield _spill_line(counts)
    if losses := ", ".join(_losses(status)):
        yield f"LOST: {losses}"
    for sink, skipped in counts.get("skipped_posts", {}).items():
        yield f"skipped by operators: {count(skipped, 'post')} of sink {sink}, unless a later rewind brought them back"
    if (reload := status.get("reload")) and reload["errors"]:
        yield f"RELOAD FAILED at {rfc3339(reload['time'])}, btfeed goes on as before: {'; '.join(reload['errors'])}"
    if failed := status.get("failed_restart"):
        why = f"the new one ended with {failed['reason']}"
        yield f"RESTART FAILED at {rfc3339(failed['time'])}, this is the old server: {why}"
    yield from _certificate_lines(status)
    for name, sink in status["sinks"].items():
        yield f"sink {name}: {_sink_line(sink)}"
        for blocked in sink["blocked"]:
            since = rfc3339(blocked["since"])
            waiting = f"{count(blocked['waiting'], 'record')} waiting"
            yield f"  {blocked['destination']}: takes nothing since {since}, {waiting}: {blocked['reason']}"
        if more := sink["blocked_destinations"] - len(sink["blocked"]):
            yield f"  {count(more, 'more destination')} that take nothing"
    for kept in status["dead_letters"] or ():
        yield f"kept: {_kept_line(kept)}"
    for violation in status["violations"]:
        yield "{}: {rule} {field} in {transaction!r}".format(count(violation["count"], "violation"), **violation)


def _received_line(counts: dict[str, Any]) -> str:
    refused = counts["refused_posts"]
    reasons = ", ".join(f"{reason} {number}" for reason, number in refused.items())
    lost = sum(counts["lost_posts"].values())
    return (
        f"received: {count(counts['posts'], 'post')} with {count(counts['received_occurrences'], 'occurrence')}, "
        f"{count(sum(refused.values()), 'request')} refused{f' ({reasons})' if reasons else ''}"
        + (f", {count(lost, 'post')} lost" if lost else "")
    )


def _who(status: dict[str, Any]) -> str:
    """Of several processes with one journal, which this is. Earlier servers do not say."""
    if not status.get("prefix"):
        return ""
    return " {role} as {instance}, journal {prefix}".format(**status)


def _worker_lines(status: dict[str, Any]) -> Iterator[str]:
    """Those of several receivers that would not accept a post, if any of them would. Other servers have no workers."""
    workers = status.get("workers", {})
    if workers:
        ready = sum(bool(each and each["ready"]) for each in workers.values())
        yield f"workers: {ready} of {len(workers)} ready"
    for number, worker in workers.items():
        if worker is None:
            yield f"  worker {number}: does not answer"
        elif not worker["ready"]:
            yield f"  worker {number}: NOT READY: {worker['refusing']}"


def _certificate_lines(status: dict[str, Any]) -> Iterator[str]:
    """Those that are not valid now, or not for long. Earlier servers tell less."""
    now = SYSTEM_CLOCK.time() * 1000
    begins = status.get("certificates_begin", {})
    for path, end in status.get("certificates", {}).items():
        begin = begins.get(path, 0)
        if end <= now:
            yield f"CERTIFICATE {path}: it has ended at {rfc3339(end)}"
        elif begin > now:
            yield f"CERTIFICATE {path}: it is not valid before {rfc3339(begin)}"
        elif end - now < ENDS_SOON:
            yield f"certificate {path}: it ends in {duration((end - now) / 1000)}, at {rfc3339(end)}"


def journal(counts: dict[str, Any]) -> str:
    """What the journal takes, of how much. Earlier servers do not say how much."""
    used, limit, free = counts["journal_bytes"], counts.get("journal_limit_bytes"), counts.get("journal_free_bytes")
    share = f" of {size(limit)} ({used / limit:.0%})" if limit else ""
    return f"{size(used)}{share}" + (f", {size(free)} free on its disk" if free is not None else "")


def _spill_line(counts: dict[str, Any]) -> str:
    """What waits for Kafka here, in whichever directory, and how full the process's own spill is."""
    posts, nbytes = count(counts["spill_posts"], "post"), counts["spill_bytes"]
    if nbytes == counts["journal_bytes"]:
        return f"spill: {posts}, {journal(counts)}"
    return f"spill: {posts}, {size(nbytes)} with those of former workers; its own: {journal(counts)}"


def _losses(status: dict[str, Any]) -> Iterator[str]:
    """What is gone besides posts that were refused, and why. Earlier servers do not count all of it."""
    counts = status["counts"]
    if evicted := sum(counts["evicted_dead_letters"].values()):
        yield f"{count(evicted, 'dead letter')} deleted to stay within their bound"
    if damaged := counts.get("lost_dead_letters"):
        yield f"{count(damaged, 'dead letter')} lost in a damaged journal"
    for sink, shown in status["sinks"].items():
        if files := shown.get("flagged", {}).get("lost_files"):
            yield f"{count(files, 'open file')} of sink {sink} lost with the records in it"
    for sink, dropped in counts["journal_dropped_posts"].items():
        yield f"{count(dropped, 'post')} of sink {sink} dropped because the journal was full"
    if lost := counts["journal_lost_posts"]:
        yield f"{count(lost, 'post')} lost in a damaged journal"


def _sink_line(sink: dict[str, Any]) -> str:
    posts = sink["backlog_posts"]
    backlog = "backlog unknown" if posts is None else f"{count(posts, 'post')} behind"
    if posts:
        backlog += f" (oldest: {duration(sink['backlog_age_seconds'])})"
    parts = [sink["state"], f"{count(sink['delivered'], 'record')} delivered", backlog]
    parts.append(count(sink["dead_letters"], "dead letter"))
    if sink["last_error"]:
        since = sink["last_error_time"]  # null while something keeps a sink from being opened
        parts.append(f"{'error' if since is None else f'last error at {rfc3339(since)}'}: {sink['last_error']}")
    return ", ".join(parts)


def _kept_line(kept: dict[str, Any]) -> str:
    owner = f"of sink {kept['sink']}" if kept["sink"] else "of no sink"
    oldest = f"the oldest {duration(kept['oldest_age_seconds'])} old"
    return f"{count(kept['letters'], 'dead letter')} {owner}, {kept['reason']}, {oldest}"
