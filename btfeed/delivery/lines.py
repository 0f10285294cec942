"""What a sink gets, as lines for people: `btfeed records` shows it beforehand, `btfeed tap` while it is delivered."""

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import msgspec

from sinks.base import Sink
from sinks.batch import Batch


def lines(name: str, sink: Sink, batch: Batch) -> list[bytes]:
    """One JSON object and a newline for each record: the sink's name, what the sink adds to the record, and the record as
    `record`, with the bytes that mapping made of it."""
    described: Sequence[Mapping[str, Any]] | None = None
    if describe := getattr(sink, "describe", None):
        described = describe(batch)
    heads = repeat({}, len(batch)) if described is None else described
    return [
        msgspec.json.encode({"sink": name} | dict(head))[:-1] + b',"record":' + body + b"}\n"
        for head, body in zip(heads, batch.bodies, strict=True)
    ]
