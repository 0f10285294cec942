"""A dead letter as JSON, as `btfeed dead-letters` prints it and the admin listener sends it."""

import base64
import json
from typing import Any

from btfeed.journal.base import DeadLetter
from btfeed.records.encoding import rfc3339


def described(dead_letter: DeadLetter) -> dict[str, Any]:
    """All but its body."""
    return {
        "id": dead_letter.id, "time": rfc3339(dead_letter.time), "sink": dead_letter.sink, "kind": dead_letter.kind,
        "cause": dead_letter.cause, "reason": dead_letter.reason, "tries": dead_letter.tries,
        "event_id": dead_letter.event_id, "destination": dead_letter.destination,
    }  # fmt: skip


def exported(dead_letter: DeadLetter) -> tuple[dict[str, Any], bool]:
    """With its body: a record as it is, anything else in base64. Also whether it is whole: a damaged record is not."""
    if dead_letter.kind == "record":
        try:
            return described(dead_letter) | {"record": json.loads(dead_letter.body)}, True
        except ValueError:
            return described(dead_letter) | _base64(dead_letter.body), False
    return described(dead_letter) | _base64(dead_letter.body), True


def _base64(body: bytes) -> dict[str, Any]:
    return {"body": base64.b64encode(body).decode()}
