"""Produce requests are encoded as aiokafka encodes them."""

from typing import Any

import pytest
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v8
from hypothesis import given
from hypothesis import strategies as st

from sinks.kafka.produce import VERSIONS

OURS = dict(zip((*ProduceRequest._CLASSES, ProduceRequest_v8), VERSIONS, strict=True))
TOPICS = st.lists(
    st.tuples(st.text(), st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), st.binary() | st.none()), max_size=3)),
    max_size=3,
)


@pytest.mark.parametrize("version", OURS)
@given(transaction=st.text() | st.none(), acks=st.integers(-1, 1), timeout=st.integers(0, 2**31 - 1), topics=TOPICS)
def test_the_bytes_are_those_of_aiokafka(
    version: Any, transaction: str | None, acks: int, timeout: int, topics: list[tuple[str, list[tuple[int, bytes]]]]
) -> None:
    """In each version of the protocol, and with its header."""
    request = ProduceRequest(None if version.API_VERSION < 3 else transaction, acks, timeout, topics)
    theirs, ours = request.build(version), request.build(OURS[version])
    assert ours.encode() == theirs.encode()
    assert ours.build_request_header(7, "a").encode() == theirs.build_request_header(7, "a").encode()
    assert (ours.API_VERSION, ours.RESPONSE_TYPE) == (theirs.API_VERSION, theirs.RESPONSE_TYPE)
