"""What `btfeed status --cluster` shows: what the brokers say of the journal, without asking any btfeed."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from btfeed.commands.config_file import load
from btfeed.commands.terminal import fail
from btfeed.journal.base import JournalError
from btfeed.telemetry.printable import printable
from btfeed.telemetry.wording import count, duration

if TYPE_CHECKING:
    from btfeed.journal.create import GroupView, MemberView, Overview, PartitionView, TopicView

LATE = 60.0
"""Seconds that a post has waited before its partition is listed."""
OPTION = "--cluster"
NO_CLUSTER = "the journal of this configuration is one file: leave it out, and the server is asked"


def show(config: Path | None, as_json: bool) -> None:
    """Print it, and exit with status 1 if something keeps posts from being taken or delivered."""
    from btfeed.journal import create as journals  # slow to import, and not needed otherwise

    loaded = load(config, needs=("receiver", "journal", "filters"))
    if not journals.halves(loaded.journal):
        raise typer.BadParameter(NO_CLUSTER, param_hint=OPTION)
    try:
        overview = asyncio.run(journals.overview(loaded.journal, list(loaded.filters), loaded.receiver.max_body))
    except JournalError as error:
        fail(f"can't ask the brokers: {error}")
    typer.echo(json.dumps(_as_json(overview)) if as_json else printable("\n".join(lines(overview))))
    if not is_well(overview):
        raise typer.Exit(1)


def is_well(overview: "Overview") -> bool:
    """Whether all topics exist and have leaders that reply, and every sink with something to deliver has somebody who does
    it."""
    topics = all(each.partitions and not each.leaderless for each in overview.topics)
    return (
        topics
        and not overview.silent
        and not any(each.error or (each.lag and not each.members) for each in overview.groups)
    )


def _as_json(overview: "Overview") -> dict[str, Any]:
    shown = asdict(overview)
    for found, group in zip(shown["groups"], overview.groups, strict=True):
        found |= {"lag": group.lag, "retention_left": group.retention_left}
    return shown | {"well": is_well(overview)}


def lines(overview: "Overview") -> Iterator[str]:
    """For people."""
    brokers = ", ".join(overview.brokers)
    yield f"cluster {overview.cluster_id or 'without an id'}: {count(len(overview.brokers), 'broker')} ({brokers})"
    for number in overview.away:
        yield f"  broker {number} IS AWAY: it has replicas, and is not up"
    for number in overview.silent:
        yield f"  broker {number} DOES NOT REPLY: what waits in the partitions that it leads is not known"
    for topic in overview.topics:
        yield from _topic_lines(topic)
    for group in overview.groups:
        yield from _group_lines(group)
    if not overview.groups:
        yield "no sinks configured here"
    yield "spills of receivers: each knows its own, see btfeed status there"


def _topic_lines(topic: "TopicView") -> Iterator[str]:
    if topic.partitions:
        shown = f"{count(topic.partitions, 'partition')}, {count(topic.replicas, 'replica')} each"
        shown += f", {topic.leaderless} WITHOUT LEADER" if topic.leaderless else ""
        shown += f", {topic.behind} with replicas that are behind" if topic.behind else ""
        yield f"topic {topic.name}: {shown}"
    else:
        yield f"topic {topic.name}: MISSING"
    for problem in topic.problems:
        yield f"  {problem}"


def _group_lines(group: "GroupView") -> Iterator[str]:
    if group.error:
        yield f"sink {group.sink}: UNKNOWN: {group.error}"
        return
    members = count(len(group.members), "process") if len(group.members) == 1 else f"{len(group.members)} processes"
    parts = [members if group.members else "NOBODY DELIVERS", f"{count(group.lag, 'post')} behind"]
    if group.retention_left is not None:
        parts.append(_left(group.retention_left))
    if group.members and group.state != "Stable":
        parts.append(f"the group is {group.state}")
    yield f"sink {group.sink}: {', '.join(parts)}"
    for member in group.members:
        yield f"  {_member(member, group)}"
    for partition in group.partitions:
        if partition.dropped or (partition.lag and _is_late(partition, group)):
            yield f"  {_partition(partition)}"


def _is_late(partition: "PartitionView", group: "GroupView") -> bool:
    """Whether its posts have waited long, or for an unknown time, or no process delivers them."""
    return partition.waits is None or partition.waits >= LATE or not partition.instance or group.state != "Stable"


def _left(seconds: float) -> str:
    if seconds <= 0:
        return "the oldest MAY BE DELETED at any moment"
    return f"the oldest is deleted in {duration(seconds)}"


def _member(member: "MemberView", group: "GroupView") -> str:
    lag = sum(each.lag for each in group.partitions if each.instance == member.instance)
    numbers = ", ".join(_ranges(member.partitions)) or "none"
    return f"{member.instance} ({member.host}): partitions {numbers}, {count(lag, 'post')} behind"


def _partition(partition: "PartitionView") -> str:
    parts = [f"{count(partition.lag, 'post')} behind"]
    if partition.retention_left is not None:
        parts.append(_left(partition.retention_left))
    if partition.dropped:
        parts.append(f"LOST: {count(partition.dropped, 'post')} that the brokers deleted before")
    return f"partition {partition.partition} ({partition.instance or 'nobody delivers'}): {', '.join(parts)}"


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    """Such as 0-5 and 9."""
    for begin in numbers:
        if begin - 1 not in numbers:
            end = next(each for each in range(begin, max(numbers) + 1) if each + 1 not in numbers)
            yield str(begin) if begin == end else f"{begin}-{end}"
