"""Random definitions of flows, records that are almost flows, and what a report is asked for.

There are few steps, few flows and few moments, so that loops, disorder and equal times are frequent. Everything comes from
a seed: draws of Hypothesis are too often small, and give flows in which nothing happens.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from btfeed.flow.definition import Definition, parse
from btfeed.flow.options import STATES, ListOptions, ReportOptions

UNIT = 600_000
"""Milliseconds between two moments."""
MOMENTS = 60
BEGIN = 1_774_742_400_000
"""2026-03-29T00:00Z: in Vienna the clocks are put forward at one."""
NAMES = ("A", "B", "C", "D", "E")
BROKEN = (b"garbage", b'{"timestamp": "2026-03-29T00:', b"12", b"[]", b"{}", b'{"event.type": "A", "timestamp": "never"}')


def moment(time: int) -> str:
    """Milliseconds since the epoch as a record has them."""
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time))
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def duration(count: int) -> str:
    return f"{count * UNIT}ms"


def definition(rng: Random) -> Definition:
    """Every key that the engine knows."""
    names = NAMES[: rng.randint(2, 5)]
    steps = [_step(rng, names, rank) for rank in range(len(names))]
    tables: dict[str, Any] = {"name": "flow", "correlation": "visit", "steps": steps}
    tables["lost_after"] = duration(rng.randint(1, 20))
    choices: dict[str, list[Any]] = {
        "correlation": [["order", "visit"]],
        "where": [{"provider": "shop"}, {"provider": {"not": "other"}}, {"other": {"exists": False}}],
        "ends": [{"category": "visit"}, {"category": ["visit", "B"]}, {"event.type": "A", "failed": True}],
        "window": [duration(units) for units in (3, 5, 8, MOMENTS)],
        "order": ["sequence", "any"],
        "tolerance": [duration(rng.randint(0, 3))],
        "bucket": ["15m", "1h", "6h", "1d", "7d"],
        "timezone": ["Europe/Vienna", "Asia/Kathmandu", "America/New_York"],
        "exceptions": [{"when": {}}, {"when": {"failed": True}}],
        "dimensions": [{"segment": "segment", "country": "country"}],
    }
    tables |= {key: rng.choice(values) for key, values in choices.items() if rng.random() < 0.45}
    if rng.random() < 0.7:
        tables["value"] = _value(rng, "dimensions" in tables)
    if len(names) > 2 and rng.random() < 0.5:
        tables["times"] = [{"name": "far", "from": names[0], "to": names[-1]}]
    return parse(tables)


def _step(rng: Random, names: tuple[str, ...], rank: int) -> dict[str, Any]:
    name = names[rank]
    step: dict[str, Any] = {"name": name, "event": rng.choice([name, [name, "F"]])}
    if rng.random() < 0.2:
        step = {"name": name, "match": {"event.type": {"regex": f"^[{name}F]"}, "amount": {"max": 7}}}
    keys: dict[str, list[Any]] = {
        "repeats": [True],
        "exceptions": [[{"event.type": f"{name}.outage"}]],
        "lost_after": [duration(rng.randint(1, 20))],
        "target": [duration(rng.randint(1, 5))],
    }
    if rank:
        keys["optional"] = [True]
        keys["after"] = [rng.sample(names[:rank], min(rank, rng.choice([0, 1, 1, 2])))]
        keys["back_to"] = [[rng.choice(names[:rank])]]
    step |= {key: rng.choice(values) for key, values in keys.items() if rng.random() < 0.3}
    return step | ({"goal": True} if rng.random() < 0.1 else {})


def _value(rng: Random, dimensions: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"field": "amount", "calculation": rng.choice(["sum", "first", "last", "max"])}
    value |= {key: rng.choice("AB") for key, often in (("step", 0.4), ("estimate_from", 0.8)) if rng.random() < often}
    return value | ({"estimate_by": "segment"} if dimensions and "estimate_from" in value and rng.random() < 0.7 else {})


def records(rng: Random) -> list[dict[str, Any] | None]:
    """None stands for a line that is no record. Some records are copies of others."""
    ids = rng.choice([[str(n) for n in range(1, 45)], ["1", "02", "x", "a'b", *(f"n{n}" for n in range(40))]])
    made: list[dict[str, Any] | None] = []
    for flow in ids[: rng.choice([2, 10, 20, len(ids)])]:
        for kind, time in _walk(rng):
            made.append(_record(rng, ids, flow, kind, time, len(made)))
            if rng.random() < 0.05:
                made.append(made[-1])
    made += [None] * rng.randrange(3)
    rng.shuffle(made)
    return made


def _walk(rng: Random) -> Iterator[tuple[str, int]]:
    """The kinds and times of the records of a flow: mostly step after step, until it ends or nothing more comes."""
    place = 0 if rng.random() < 0.9 else rng.randrange(5)
    first = time = rng.randrange(MOMENTS * 2 // 3)
    while place < len(NAMES) and rng.random() < 0.9:
        kind = NAMES[place]
        yield rng.choice([kind] * 12 + ["F", f"{kind}.outage", "other"]), time
        place = max(0, place + rng.choice([1] * 8 + [0, 0, -1, 2]))
        time = max(0, time + rng.choice([0, 1, 1, 2, 2, 3, 5, -1]))
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2])):
        yield "visit", first + rng.randrange(3)


def _record(rng: Random, ids: list[str], flow: str, kind: str, moments: int, number: int) -> dict[str, Any]:
    time = BEGIN + moments * UNIT
    record: dict[str, Any] = {"event.type": kind, "timestamp": moment(time), "event.id": f"e{number}", "visit": flow}
    if rng.random() < 0.1:
        record |= {"event.id": None, "timestamp": moment(time + number + 1)}  # nothing else orders those of one time
    if kind == "visit":
        record |= {"category": "visit", "end_time": rng.choice([None, moment(time), *[moment(time + 9 * UNIT)] * 3])}
    seldom: dict[str, list[Any]] = {
        "visit": [None, "", rng.choice(ids)],
        "order": [rng.choice(ids), ""],
        "category": ["B", "visit"],
        "failed": [True, False],
        "timestamp": [None],
        "other": [1],
    }
    sometimes: dict[str, list[Any]] = {
        "segment": ["gold", "new", ""],
        "country": [f"c{n}" for n in range(25)],
    }
    often: dict[str, list[Any]] = {
        "provider": ["shop"] * 9 + ["other"],
        "event.outcome": ["success", "success", "success", "failure"],
        "amount": [0, 2, 3.5, "4.25", 1e-7, "many", 7, 10**20, ""],
        "duration": [rng.randrange(5 * UNIT * 1_000_000)],
    }
    record |= {name: rng.choice(values) for name, values in seldom.items() if rng.random() < 0.04}
    record |= {name: rng.choice(values) for name, values in sometimes.items() if rng.random() < 0.35}
    return record | {name: rng.choice(values) for name, values in often.items() if rng.random() < 0.75}


def line(record: dict[str, Any] | None, number: int) -> bytes:
    """A line of NDJSON."""
    if record is None:
        return BROKEN[number % len(BROKEN)]
    return json.dumps({name: value for name, value in record.items() if value is not None}).encode()


def _selection(rng: Random, definition: Definition) -> dict[str, Any]:
    begin = rng.choice([None, BEGIN + rng.randrange(MOMENTS // 2) * UNIT])
    end = rng.choice([None, (begin or BEGIN) + rng.randrange(MOMENTS) * UNIT])
    where = [("segment", "gold"), ("segment", "(unknown)"), ("country", "(unknown)")] if definition.dimensions else []
    return {
        "begin": begin,
        "end": end,
        "as_of": rng.choice([None, None, BEGIN + rng.randrange(MOMENTS // 4, 2 * MOMENTS) * UNIT]),
        "by": rng.choice(["start", "start", "decided"]),
        "mature": rng.random() < 0.2,
        "where": tuple(fits for fits in where if rng.random() < 0.15),
    }


def report_options(rng: Random, definition: Definition) -> ReportOptions:
    """Of a report."""
    splits = [("segment",), ("country",), ("segment", "country")] if definition.dimensions else []
    return ReportOptions(
        **_selection(rng, definition),
        compare=rng.choice([None, "previous", "week", "none", 3 * UNIT]),
        split=tuple(split for split in splits if rng.random() < 0.5),
        lists=rng.choice([0, 2, 50]),
    )


def days(rng: Random, definition: Definition) -> ReportOptions:
    """A report of whole days of the zone."""
    zone, number = ZoneInfo(definition.timezone), rng.choice([0, 1, 1])
    bounds = [
        datetime(2026, 3, 29, tzinfo=zone) + timedelta(days=each) for each in (number, number + rng.choice([0, 1, 1, 2]))
    ]
    begin, end = (round(each.timestamp() * 1000) for each in bounds)
    options = report_options(rng, definition)
    compare = rng.choice([options.compare, "previous", "week", 86_400_000])
    return replace(options, begin=begin, end=rng.choice([None, end, end]), compare=compare)


def list_options(rng: Random, definition: Definition) -> ListOptions:
    """Of a list."""
    return ListOptions(
        **_selection(rng, definition),
        states=tuple(rng.sample(STATES, rng.choice([0, 0, 1, 3]))),
        at=rng.choice([None, None, "A", "B"]),
        idle=rng.choice([None, 0, 5 * UNIT]),
        exceptions=rng.random() < 0.2,
        limit=rng.choice([None, 2]),
        sort=rng.choice(["start", "last", "value", "exceptions"]),
    )
