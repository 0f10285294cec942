"""CloudEvents attributes of records, and the message headers that carry them in CloudEvents' binary mode."""

from dataclasses import dataclass
from urllib.parse import quote

import msgspec

SPEC_VERSION = "1.0"
MAX_CACHED = 10_000
"""Business transactions whose headers are cached."""
MAX_CACHED_SIZE = 2**12
"""Bytes of a cache key. A business transaction with a longer one is not cached: its name may be as long as a post."""
_URI_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"
"""What a URI may contain besides letters, digits and `_.-`."""
_ID, _TIME = b'{"event.kind":"BIZ_EVENT","event.id":"', b',"timestamp":"'
_TYPE, _PROVIDER, _NAME = b'"event.type":"', b'"event.provider":"', b'"event.name":"'

_ID_SIZE = len(_ID)
_TIME_SIZE = len("2026-01-31T12:00:00.000Z")

Header = tuple[str, bytes]


class Head(msgspec.Struct):
    """The fields of a record that become CloudEvents attributes. `source` and `kind` are never empty, as required there."""

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
class Shared:
    """What the records of a business transaction have in common.

    text  the bytes of each record between its event.id and its timestamp; empty if the layout is not the usual one
    name  event.name if it is in `text`, else empty
    """

    text: bytes
    name: str
    type: Header
    source: Header


_NOTHING = Shared(b"\0", "", ("", b""), ("", b""))
"""Matches no record."""


class Envelopes:
    """Makes the headers of messages whose values are records, as JSON or otherwise.

    Decoding a record for three of its fields would cost more than sending it. Between event.id and timestamp, all records
    of a business transaction have the same bytes, so headers are cached by them. Records with another layout are decoded.
    """

    def __init__(self, content_type: str) -> None:
        self._version = ("ce_specversion", SPEC_VERSION.encode())
        self._content_type = ("content-type", content_type.encode())
        self._cache: dict[bytes, Shared] = {}
        self._last = _NOTHING

    def headers(self, event_id: str, body: bytes) -> list[Header]:
        """All headers of a record. ce_time is left out if the record has no timestamp."""
        encoded = event_id.encode()
        end = _ID_SIZE + len(encoded)
        shared = self._last
        if not body.startswith(shared.text, end):
            shared = self._find(body, end)
        start = end + len(shared.text)
        stop = start + _TIME_SIZE
        if not shared.text or not body.startswith(b'"', stop):
            time = read_head(body).timestamp
            timed = [("ce_time", time.encode())] if time else []
            return [("ce_id", encoded), shared.type, shared.source, self._version, self._content_type, *timed]
        time_header = ("ce_time", body[start:stop])
        return [("ce_id", encoded), shared.type, shared.source, self._version, self._content_type, time_header]

    def shared(self, event_id: str, body: bytes) -> tuple[bytes, bytes, list[Header]]:
        """For native code: `text` and `name` of the record's `Shared`, and the headers between ce_id and ce_time."""
        shared = self._find(body, _ID_SIZE + len(event_id.encode()))
        return shared.text, shared.name.encode(), [shared.type, shared.source, self._version, self._content_type]

    def name(self, event_id: str, body: bytes) -> str:
        """The record's event.name, or an empty string."""
        return self._find(body, _ID_SIZE + len(event_id.encode())).name or read_head(body).name

    def _find(self, body: bytes, end: int) -> Shared:
        """What the record shares with its business transaction. end: where its event.id ends in the usual layout."""
        time = body.find(_TIME, end) + len(_TIME)
        text = body[end:time]
        shared = self._cache.get(text)
        if shared is None:
            head = read_head(body)
            source = quote(head.source, safe=_URI_CHARACTERS).encode()
            usual_layout = body.startswith(_ID) and _TYPE in text and _PROVIDER in text
            name = head.name if _NAME in text else ""
            shared = Shared(text if usual_layout else b"", name, ("ce_type", head.kind.encode()), ("ce_source", source))
            if not usual_layout:
                return shared
            if len(text) <= MAX_CACHED_SIZE:
                if len(self._cache) >= MAX_CACHED:
                    self._cache.clear()
                self._cache[text] = shared
        self._last = shared
        return shared
