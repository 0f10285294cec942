"""What a CloudEvent says itself of a record, and those attributes as headers of a message: CloudEvents' binary mode."""

from dataclasses import dataclass
from urllib.parse import quote

import msgspec

SPEC_VERSION = "1.0"
MAX_KNOWN = 10_000
"""Business transactions whose attributes are remembered."""
MAX_TEXT = 2**12
"""Bytes of what is remembered of one: names may be as long as a post."""
_URI = "!#$%&'()*+,/:;=?@[]~"
"""What may stand in a URI beside letters, digits, `_.-`."""
_ID, _TIME = b'{"event.kind":"BIZ_EVENT","event.id":"', b',"timestamp":"'
_TYPE, _PROVIDER, _NAME = b'"event.type":"', b'"event.provider":"', b'"event.name":"'

_ID_SIZE = len(_ID)
_TIME_SIZE = len("2026-01-31T12:00:00.000Z")

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
    """What all records of a business transaction have in common.

    text  what stands between event.id and the timestamp, both of which it touches
    name  event.name, empty where that is not in `text`
    """

    text: bytes
    name: str
    type: Header
    source: Header


_NOTHING = Known(b"\0", "", ("", b""), ("", b""))
"""What no record begins with."""


class Envelopes:
    """The headers of messages that hold records as JSON or otherwise.

    To decode a record for three of its fields would cost more than to send it. What stands between its event.id and its
    timestamp is the same for all records of a business transaction, so that is compared; where a record is laid out
    otherwise it is decoded.
    """

    def __init__(self, content_type: str) -> None:
        self._version = ("ce_specversion", SPEC_VERSION.encode())
        self._content_type = ("content-type", content_type.encode())
        self._known: dict[bytes, Known] = {}
        self._last = _NOTHING

    def headers(self, event_id: str, body: bytes) -> list[Header]:
        """The record's attributes: those that are required, and its time where it has one."""
        encoded = event_id.encode()
        end = _ID_SIZE + len(encoded)
        known = self._last
        if not body.startswith(known.text, end):
            known = self._find(body, end)
        start = end + len(known.text)
        stop = start + _TIME_SIZE
        if not known.text or not body.startswith(b'"', stop):
            time = read_head(body).timestamp
            timed = [("ce_time", time.encode())] if time else []
            return [("ce_id", encoded), known.type, known.source, self._version, self._content_type, *timed]
        time_header = ("ce_time", body[start:stop])
        return [("ce_id", encoded), known.type, known.source, self._version, self._content_type, time_header]

    def shared(self, event_id: str, body: bytes) -> tuple[bytes, bytes, list[Header]]:
        """What native code has to know of a business transaction: `Known.text` and `name`, and the headers between the
        first and the last."""
        known = self._find(body, _ID_SIZE + len(event_id.encode()))
        return known.text, known.name.encode(), [known.type, known.source, self._version, self._content_type]

    def name(self, event_id: str, body: bytes) -> str:
        """The record's event.name, empty where it has none."""
        return self._find(body, _ID_SIZE + len(event_id.encode())).name or read_head(body).name

    def _find(self, body: bytes, end: int) -> Known:
        """Of a record's business transaction; `end`: where event.id ends, if it stands where records have it."""
        time = body.find(_TIME, end) + len(_TIME)
        text = body[end:time]
        known = self._known.get(text)
        if known is None:
            head = read_head(body)
            source = quote(head.source, safe=_URI).encode()
            laid_out = body.startswith(_ID) and _TYPE in text and _PROVIDER in text
            name = head.name if _NAME in text else ""
            known = Known(text if laid_out else b"", name, ("ce_type", head.kind.encode()), ("ce_source", source))
            if not laid_out:
                return known
            if len(text) <= MAX_TEXT:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[text] = known
        self._last = known
        return known
