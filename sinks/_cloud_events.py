"""What a CloudEvent says itself of a record, and those attributes as headers of a message: CloudEvents' binary mode."""

from dataclasses import dataclass
from urllib.parse import quote

import msgspec

SPEC_VERSION = "1.0"
MAX_KNOWN = 10_000
"""Business transactions whose attributes are remembered."""
_URI = "!#$%&'()*+,/:;=?@[]~"
"""What may stand in a URI beside letters, digits, `_.-`."""
_ID, _TIME = b'{"event.kind":"BIZ_EVENT","event.id":"', b',"timestamp":"'
_TYPE, _PROVIDER, _NAME = b'"event.type":"', b'"event.provider":"', b'"event.name":"'

Header = tuple[str, bytes]


class Head(msgspec.Struct):
    """The fields of a record that its envelope repeats. Empty ones are not allowed there."""

    provider: str = msgspec.field(default="", name="event.provider")
    type: str = msgspec.field(default="", name="event.type")
    name: str = msgspec.field(default="", name="event.name")
    timestamp: str | None = None

    @property
    def source(self) -> str:
        return self.provider or "appmon"

    @property
    def kind(self) -> str:
        return self.type or "unknown"


read_head = msgspec.json.Decoder(Head).decode


@dataclass(frozen=True, slots=True)
class Known:
    """What all records of a business transaction have in common. name: empty where that is not known of all."""

    name: str
    type: Header
    source: Header


class Envelopes:
    """The headers of messages that hold records as JSON or otherwise.

    To decode a record for three of its fields would cost more than to send it. What stands between its event.id and its
    timestamp is the same for all records of a business transaction, so that is looked up; where a record is laid out
    otherwise it is decoded.
    """

    def __init__(self, content_type: str) -> None:
        self._version = ("ce_specversion", SPEC_VERSION.encode())
        self._content_type = ("content-type", content_type.encode())
        self._known: dict[bytes, Known] = {}

    def name(self, event_id: str, body: bytes) -> str:
        """The record's event.name, empty where it has none."""
        known = self._known.get(body[len(_ID) + len(event_id) : body.find(_TIME)])
        return known.name if known and known.name else read_head(body).name

    def headers(self, event_id: str, body: bytes) -> list[Header]:
        """The record's attributes: those that are required, and its time where it has one."""
        end = len(_ID) + len(event_id)
        time = body.find(_TIME, end)
        common = body[end:time]
        known = self._known.get(common)
        if known is None:
            return self._learn(event_id, body, common if time > 0 and body.startswith(_ID) else b"")
        start = time + len(_TIME)
        return [
            ("ce_id", event_id.encode()),
            known.type,
            known.source,
            self._version,
            ("ce_time", body[start : body.find(b'"', start)]),
            self._content_type,
        ]

    def _learn(self, event_id: str, body: bytes, common: bytes) -> list[Header]:
        """Of a record whose business transaction is not known. `common`: what it shares with others, empty if unclear."""
        head = read_head(body)
        source = quote(head.source, safe=_URI).encode()
        known = Known(head.name if _NAME in common else "", ("ce_type", head.kind.encode()), ("ce_source", source))
        if _TYPE in common and _PROVIDER in common:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[common] = known
        time = [("ce_time", head.timestamp.encode())] if head.timestamp else []
        return [("ce_id", event_id.encode()), known.type, known.source, self._version, *time, self._content_type]
