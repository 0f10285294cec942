"""Packs columns of a batch into memory that native code reads, without a Python object for each item."""

from array import array
from collections.abc import Sequence

from sinks.batch import Joined

Packed = tuple[bytes, bytes]
"""All items in one buffer, and the size of each as native 64-bit integers."""


def pack_strings(column: Sequence[str]) -> Packed:
    """Pack strings as UTF-8. A column with a method `packed` packs itself."""
    if isinstance(column, Joined):
        pieces = [pack_strings(one) for one in column.columns]
        return b"".join([texts for texts, _ in pieces]), b"".join([sizes for _, sizes in pieces])
    pack = getattr(column, "packed", None)
    found: Packed = pack() if pack else pack_bytes([*map(str.encode, column)])
    return found


def pack_bytes(column: Sequence[bytes]) -> Packed:
    """Pack byte strings."""
    return b"".join(column), array("q", map(len, column)).tobytes()


def pack_integers(column: Sequence[int]) -> bytes:
    """Pack integers as native 64-bit integers."""
    if isinstance(column, Joined):
        return b"".join(map(pack_integers, column.columns))
    if isinstance(column, memoryview) and column.format == "q":
        return column.tobytes()
    return array("q", column).tobytes()
