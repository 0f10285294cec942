"""Columns of a batch as memory, for native code: texts and numbers that are not made into objects of Python's before."""

from array import array
from collections.abc import Sequence

from sinks.batch import Joined

Packed = tuple[bytes, bytes]
"""Bytes one behind the other, and the length of each as native 64-bit numbers."""


def packed(column: Sequence[str]) -> Packed:
    """A column of texts as UTF-8. A column that knows a faster way offers it as its method `packed`."""
    if isinstance(column, Joined):
        pieces = [packed(one) for one in column.columns]
        return b"".join([texts for texts, _ in pieces]), b"".join([lengths for _, lengths in pieces])
    ready = getattr(column, "packed", None)
    found: Packed = ready() if ready else packed_bytes([*map(str.encode, column)])
    return found


def packed_bytes(column: Sequence[bytes]) -> Packed:
    """A column of byte strings."""
    return b"".join(column), array("q", map(len, column)).tobytes()


def numbers(column: Sequence[int]) -> bytes:
    """A column of integers as native 64-bit numbers."""
    if isinstance(column, Joined):
        return b"".join(map(numbers, column.columns))
    if isinstance(column, memoryview) and column.format == "q":
        return column.tobytes()
    return array("q", column).tobytes()
