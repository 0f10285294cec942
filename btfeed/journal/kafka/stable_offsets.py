"""The question for offsets that answers nothing while a transaction that moves one of them ends.

A transaction's commit is answered before its end is known everywhere: for a moment brokers still tell the offset of before.
Version 7 of OffsetFetch can ask them not to (KIP-447). aiokafka knows it up to version 3.
"""

from typing import Any

from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

UNSTABLE = 88
"""The error of a partition of which a transaction has not ended."""
_TEXT, _TAGS = CompactString("utf-8"), ("tags", TaggedFields)


class _Response(Response):  # type: ignore[misc]  # aiokafka is not typed
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "found",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _TEXT),
                        ("error_code", Int16),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("error_code", Int16),
        _TAGS,
    )

    @property
    def topics(self) -> list[tuple[str, list[tuple[Any, ...]]]]:
        """As the versions that aiokafka knows have them."""
        return [
            (topic, [(number, offset, metadata, code) for number, offset, _, metadata, code, _ in partitions])
            for topic, partitions, _ in self.found
        ]


class _Request(RequestStruct):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        ("group", _TEXT),
        ("topics", CompactArray(("topic", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)),
        ("require_stable", Boolean),
        _TAGS,
    )


class StableOffsetFetchRequest(OffsetFetchRequest):  # type: ignore[misc]
    """Brokers before Kafka 2.5 are asked as usual."""

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is not _Request:
            return super().build(request_struct_class)
        return _Request(self._consumer_group, [(*each, {}) for each in self._partitions or ()], True, {})


StableOffsetFetchRequest._CLASSES = (*OffsetFetchRequest._CLASSES, _Request)
