"""The metrics and the snapshots of several receivers on one machine, merged into those of one server.

The receivers are processes of the same version and configuration. In snapshots, what they count is
summed, and of what happened last, the newest is shown. Metrics get a label `worker`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

Snapshot = Mapping[str, Any]

ONE_DISK = "journal_free_bytes"
"""The one count that is of the machine, not of a process."""


def merge_metrics(texts: Mapping[int, str]) -> str:
    """By number of the worker, what its /metrics says: one text in which each sample has the label `worker`."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for number, text in texts.items():
        head: list[str] = []
        samples: list[str] = []
        for line in text.splitlines():
            if line.startswith("# HELP "):
                head, samples = families.setdefault(line.split(" ", 3)[2], ([], []))
                is_new = not head
            if line.startswith("#"):
                head += [line] if is_new else []
            elif line:
                samples.append(_labelled(line, number))
    return "".join(f"{line}\n" for head, samples in families.values() for line in (*head, *samples))


def _labelled(sample: str, number: int) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f'{name}{{worker="{number}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{number}"}} {value}'


def merge_snapshots(answers: Mapping[int, Snapshot | None]) -> dict[str, Any]:
    """By number of the worker, what its /status says, None if it does not answer: at least one does. `workers` has how each
    of them is."""
    known = [each for each in answers.values() if each is not None]
    ready = any(each["ready"] for each in known)
    reasons = {number: "does not answer" if each is None else each["refusing"] for number, each in answers.items()}
    merged = {field: MERGED.get(field, _first)([each[field] for each in known]) for field in known[0]}
    merged["journal"] |= {"text": _journal_text(answers)}
    return merged | {
        "ready": ready,
        "refusing": None if ready else "; ".join(f"worker {number}: {reason}" for number, reason in reasons.items()),
        "workers": {str(number): _shown(each) for number, each in answers.items()},
    }


def _shown(snapshot: Snapshot | None) -> dict[str, Any] | None:
    if snapshot is None:
        return None
    shown = {field: snapshot[field] for field in ("ready", "refusing", "uptime_seconds", "last_post_time")}
    return shown | {"posts": snapshot["counts"]["posts"]}


def _first(values: Sequence[Any]) -> Any:
    return values[0]


def _newest(values: Sequence[Any]) -> Any:
    """Of events with a `time`."""
    return max((each for each in values if each), key=itemgetter("time"), default=None)


def _last_reload(values: Sequence[Any]) -> Any:
    """The newest; but if one failed somewhere, that."""
    return _newest([each for each in values if each and each["errors"]]) or _newest(values)


def _known(best: Callable[[Iterable[Any]], Any]) -> Callable[[Sequence[Any]], Any]:
    """`best` of those that are not None; None if all are."""

    def find(values: Sequence[Any]) -> Any:
        known = [each for each in values if each is not None]
        return best(known) if known else None

    return find


def _sum(values: Sequence[Any]) -> Any:
    """Of numbers, or of tables of them, by key."""
    tables = [each for each in values if isinstance(each, Mapping)]
    if not tables:
        return _known(sum)(values)
    return {key: _sum([table[key] for table in tables if key in table]) for table in tables for key in table}


def _counts(values: Sequence[Any]) -> Any:
    return _sum(values) | ({ONE_DISK: min(each[ONE_DISK] for each in values)} if ONE_DISK in values[0] else {})


def _by(key: Sequence[str], sums: Sequence[str], time: str = "") -> Callable[[Sequence[Any]], Any]:
    """Lists of rows: those with an equal `key` become one, with sums of `sums`. The rest is the newest's by `time`."""

    def merge(values: Sequence[Any]) -> Any:
        groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for row in (row for rows in values for row in rows or ()):
            groups.setdefault(tuple(row[each] for each in key), []).append(row)
        return [
            {**(max(rows, key=lambda row: row[time] or 0) if time else rows[0])}
            | {each: _sum([row[each] for row in rows]) for each in sums}
            for rows in groups.values()
        ]

    return merge


def _journal(values: Sequence[Any]) -> Any:
    best: Mapping[str, Callable[[Iterable[Any]], Any]] = {
        "used": max, "bytes": sum, "limit_bytes": sum, "undelivered_bytes": sum, "free_bytes": min, "full_in_seconds": min,
        "empty_in_seconds": max,
    }  # fmt: skip
    return {key: _known(best.get(key, lambda each: next(iter(each))))([each[key] for each in values]) for key in values[0]}


def _journal_text(answers: Mapping[int, Snapshot | None]) -> str:
    """Each worker has a spill of its own, of which its text tells."""
    texts = {number: each["journal"]["text"] for number, each in answers.items() if each is not None}
    distinct = set(texts.values())
    if len(texts) == 1:
        return str(distinct.pop())
    if len(distinct) == 1:
        return f"each of {len(texts)} workers: {distinct.pop()}"
    return "; ".join(f"worker {number}: {text}" for number, text in texts.items())


MERGED: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "uptime_seconds": max,
    "started": min,
    "last_post_time": _known(max),
    "reload": _last_reload,
    "failed_restart": _newest,
    "rates": _sum,
    "sources": _by(("server",), ("posts", "occurrences"), "last_post_time"),
    "more_sources": max,
    "refusals": _by(("reason",), ("count", "lost"), "last_time"),
    "tls_failures": _by(("error",), ("count",), "last_time"),
    "journal": _journal,
    "counts": _counts,
    "violations": _by(("transaction", "field", "rule"), ("count",)),
    "dead_letters": _by(("sink", "reason"), ("letters",)),
}
"""How the fields of a snapshot are merged. Of others, that of the first worker is shown."""
