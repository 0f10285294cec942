"""The state of a sink in words, from what /status has of it."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from btfeed.telemetry.sink_status import WORDS
from btfeed.telemetry.wording import count, duration

MAX_REASON = 200
"""Characters of an error in a text. The whole is in another field."""
GROWING = 1.0
"""Posts per second. A backlog that changes less neither grows nor shrinks."""


def words(sink: Mapping[str, Any], slope: float | None, now: int) -> str:
    """Such as "delivering, 12,000 posts behind since 14:02 UTC, catching up, about 3 min".

    slope  posts per second by which the backlog grows, None if not known
    now    milliseconds since the epoch
    """
    return "; ".join(filter(None, [", ".join([_state(sink, now), *_behind(sink, slope, now)]), _blocked(sink)]))


def caught_up_in(posts: int | None, slope: float | None) -> float | None:
    """Seconds until a backlog is delivered, None if it does not shrink."""
    return round(posts / -slope, 1) if posts and slope is not None and slope <= -GROWING else None


def _state(sink: Mapping[str, Any], now: int) -> str:
    state, error = sink["state"], sink["last_error"]
    if state == "paused" and sink["paused_since"]:
        return f"paused since {moment(sink['paused_since'], now)}"
    if state in ("unavailable", "misconfigured", "rejecting"):
        return f"{WORDS.get(state, state)}: {error[:MAX_REASON]}" if error else WORDS.get(state, state)
    return WORDS.get(state, str(state))


def _behind(sink: Mapping[str, Any], slope: float | None, now: int) -> Iterator[str]:
    posts, since = sink["backlog_posts"], sink["behind_since"]
    if posts is None:
        yield "backlog not known"
    if not posts or since is None:
        return
    yield f"{posts:,} {'post' if posts == 1 else 'posts'} behind since {moment(since, now)}"
    if sink["state"] != "running" or slope is None:
        return
    if sink["caught_up_in_seconds"] is not None:
        yield f"catching up, about {duration(sink['caught_up_in_seconds'])}"
    elif slope >= GROWING:
        yield "falling further behind"


def _blocked(sink: Mapping[str, Any]) -> str:
    """The destination for which most records wait, and how many there are."""
    if not sink["blocked"]:
        return ""
    first, number = sink["blocked"][0], sink["blocked_destinations"]
    more = f" and {count(number - 1, 'other destination')}" if number > 1 else ""
    take = "take" if number > 1 else "takes"
    why = f" ({first['reason'][:MAX_REASON]})" if first["reason"] else ""
    return f"waits: {first['destination']}{more} {take} nothing{why}"


def moment(at: int, now: int) -> str:
    """A time in milliseconds since the epoch: the time of day if it was in the last 12 hours."""
    shown = datetime.fromtimestamp(at / 1000, UTC)
    return f"{shown:%H:%M} UTC" if 0 <= now - at < 12 * 3_600_000 else f"{shown:%Y-%m-%d %H:%M} UTC"
