"""What the page says of a snapshot beyond its figures: whether all is well, and if not, what is not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from btfeed.page.wording import DAY, clock, count, duration, number, sentence
from btfeed.telemetry.sink_status import WORDS
from btfeed.telemetry.wording import cut, size

Level = Literal["ok", "idle", "warn", "bad"]
"""How a thing is: well, nothing to say, somebody should look at it, somebody must act. Also a class in the stylesheet."""

SILENT = 300
"""Seconds without a post after which the page calls the feed silent."""
CERTIFICATE_DAYS = 30
"""Days before the end of a certificate from which the page warns."""
JOURNAL_WARNING = 0.8
"""Share of its room from which a journal deserves a warning, unless it empties."""
_STATES: Mapping[str, Level] = {"running": "ok", "unavailable": "warn", "misconfigured": "bad", "rejecting": "bad"}
"""States of sinks. Of others there is nothing to say."""


@dataclass(frozen=True, slots=True)
class Headline:
    level: Level
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What somebody should look at. link: the id of the section that says more."""

    level: Level
    what: str
    text: str
    link: str


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure. note: what it is of, or why it is so."""

    label: str
    value: str
    unit: str = ""
    note: str = ""
    level: Level = "ok"


@dataclass(frozen=True, slots=True)
class View:
    """What `of` finds in a snapshot. sinks: name -> level and word of its state."""

    headline: Headline
    problems: list[Problem] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    sinks: dict[str, tuple[Level, str]] = field(default_factory=dict)
    journal: Level = "ok"


def of(status: Mapping[str, Any]) -> View:
    """status: the snapshot."""
    sinks = {name: _state(sink) for name, sink in status["sinks"].items()}
    problems = [*_own_problems(status), *_losses(status), *_sink_problems(status, sinks)]
    problems.sort(key=lambda problem: problem.level != "bad")
    return View(_headline(status), problems, list(_tiles(status)), sinks, _journal_level(status["journal"]))


def _headline(status: Mapping[str, Any]) -> Headline:
    now, last, rates = status["time"], status["last_post_time"], status["rates"]
    if not status["ready"]:
        return Headline("bad", "Posts are refused", f"{sentence(status['refusing'])} AppMon does not send them again.")
    if last is None:
        return Headline("idle", "Waiting for the first post", "")
    source = max(status["sources"], key=lambda each: each["last_post_time"], default=None)
    server = f" from {source['server']}" if source and source["server"] else ""
    if now - last > SILENT * 1000:
        text = f"The last post{server} came at {clock(last, now)}. AppMon posts whenever its transactions have results."
        return Headline("warn", f"No post for {duration((now - last) / 1000)}", text)
    last_one = f", the last one{server}" if server else ""
    text = f"{number(rates['posts'])} posts with {number(rates['occurrences'])} occurrences a second{last_one}."
    return Headline("ok", "The feed is alive", text)


def _own_problems(status: Mapping[str, Any]) -> Iterator[Problem]:
    """Those of the server itself."""
    now, reload, journal = status["time"], status["reload"], status["journal"]
    if reload and reload["errors"]:
        errors = "; ".join(reload["errors"])
        failed = f"The reload at {clock(reload['time'], now)} failed"
        text = f"{failed}: btfeed goes on with the configuration it had before. {errors}"
        yield Problem("bad", "The configuration was not reloaded", cut(text, 600), "configuration")
    for key, end in status["certificates"].items():
        days = (end - now) / 1000 / DAY
        if days < CERTIFICATE_DAYS:
            text = f"{key} ended on {clock(end, now)}." if days < 0 else f"{key} ends in {count(int(days), 'day')}."
            yield Problem("bad" if days < 0 else "warn", "Certificate", text, "refused")
    if (level := _journal_level(journal)) != "ok":
        yield Problem(level, "Journal", sentence(journal["text"]), "journal")
    if letters := sum(each["letters"] for each in status["dead_letters"] or ()):
        waits = "waits" if letters == 1 else "wait"
        yield Problem("warn", "Dead letters", f"{count(letters, 'dead letter')} {waits} for you to decide.", "letters")


def _losses(status: Mapping[str, Any]) -> Iterator[Problem]:
    """What is gone for good since the start."""
    counts = status["counts"]
    if posts := sum(counts["lost_posts"].values()):
        text = f"{count(posts, 'post')} of AppMon since the start: {_by_label(counts['lost_posts'])}."
        yield Problem("bad", "Lost with a refusal", text, "refused")
    for sink, posts in counts["journal_dropped_posts"].items():
        text = f"{count(posts, 'post')} that sink {sink} had not had, because the journal was full."
        yield Problem("bad", "Dropped", text, "journal")
    for sink, posts in counts["skipped_posts"].items():
        yield Problem("warn", "Skipped", f"{count(posts, 'post')} of sink {sink}, by an operator.", "sinks")
    if letters := sum(counts["evicted_dead_letters"].values()):
        text = f"{count(letters, 'dead letter')}, to stay within their bound."
        yield Problem("bad", "Deleted", text, "letters")
    if damaged := counts["journal_lost_posts"] + counts["lost_dead_letters"]:
        yield Problem("bad", "Journal damaged", f"{number(damaged)} posts or dead letters can't be read.", "journal")
    for sink, shown in status["sinks"].items():
        if files := shown["flagged"].get("lost_files"):
            yield Problem(
                "bad", "Files lost", f"{count(files, 'open file')} of sink {sink}, with the records in it.", "sinks"
            )


def _by_label(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {number(found)}" for label, found in counts.items())


def _sink_problems(status: Mapping[str, Any], levels: Mapping[str, tuple[Level, str]]) -> Iterator[Problem]:
    for name, sink in status["sinks"].items():
        level, _ = levels[name]
        if level in ("warn", "bad") or sink["state"] == "paused":
            yield Problem("warn" if level == "idle" else level, f"Sink {name}", sentence(cut(sink["text"], 600)), "sinks")


def _state(sink: Mapping[str, Any]) -> tuple[Level, str]:
    level, word = _STATES.get(sink["state"], "idle"), WORDS.get(sink["state"], sink["state"])
    if sink["state"] != "running":
        return level, word
    if sink["blocked_destinations"]:
        return "warn", "delivering in part"
    if sink["behind_since"] is not None and sink["caught_up_in_seconds"] is not None:
        return "ok", "catching up"
    return ("warn", "behind") if sink["behind_since"] is not None else (level, word)


def _journal_level(journal: Mapping[str, Any]) -> Level:
    undelivered = journal["undelivered_bytes"] / max(1, journal["limit_bytes"] or 0)
    if undelivered >= 1 or (journal["full_in_seconds"] is not None and journal["full_in_seconds"] < 3_600):
        return "bad"
    soon = journal["full_in_seconds"] is not None and journal["full_in_seconds"] < DAY
    return "warn" if soon or (undelivered > JOURNAL_WARNING and journal["empty_in_seconds"] is None) else "ok"


def _tiles(status: Mapping[str, Any]) -> Iterator[Tile]:
    counts, rates, journal = status["counts"], status["rates"], status["journal"]
    yield Tile("Posts", number(rates["posts"]), "/s", f"{number(counts['posts'])} since the start")
    occurrences = number(counts["received_occurrences"])
    yield Tile("Occurrences", number(rates["occurrences"]), "/s", f"{occurrences} since the start")
    backlogs = {name: sink["backlog_posts"] for name, sink in status["sinks"].items()}
    slowest = max(backlogs, key=lambda name: backlogs[name] or 0, default=None)
    if slowest is None:
        yield Tile("Posts behind", "–", "", "no sink is configured")
    else:
        behind = backlogs[slowest]
        yield Tile("Posts behind", number(behind), "", f"sink {cut(slowest, 40)}" if behind else "all sinks are up to date")
    latencies = {
        name: sink["latency"]["p99_seconds"] for name, sink in status["sinks"].items() if sink["latency"] is not None
    }
    worst = max(latencies, key=lambda name: latencies[name] or 0, default=None)
    note = f"99 % within, sink {cut(worst, 40)}" if worst else "nothing delivered lately"
    yield Tile("Receipt to delivery", duration(latencies[worst]) if worst else "–", "", note)
    used = "–" if journal["used"] is None else f"{journal['used']:.0%}"
    limit = journal["limit_bytes"]
    note = "it is in Kafka" if limit is None else f"of {size(limit)}"
    yield Tile("Journal used", used, "", note, _journal_level(journal))
    lost = sum(counts["lost_posts"].values())
    refused = sum(counts["refused_posts"].values())
    note = f"{count(refused, 'request')} refused" if refused else "nothing refused"
    yield Tile("Posts lost", number(lost), "", note, "bad" if lost else "ok")
