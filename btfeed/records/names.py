"""The record fields of measures and dimensions, whose names users choose."""

import re
from collections.abc import Sequence

_SEPARATORS = re.compile("[^a-z0-9]+")


def normalize(name: str) -> str:
    """Converts to lower case, replaces each run of characters other than a-z0-9 by `_`, and strips `_` at both ends."""
    return _SEPARATORS.sub("_", name.lower()).strip("_")


def field_names(prefix: str, names: Sequence[str], count: int) -> tuple[str, ...]:
    """Record fields for `count` values. The first values have `names`; the others have none.

    A value without a name, or with an empty one, is called by its position, from 1. If a name is taken already, `_2`, `_3`
    and so on is appended, whichever is free first. The fields of the first values do not depend on `count`.
    """
    numbers: dict[str, int] = {}
    fields = []
    for place in range(count):
        base = name = normalize(names[place] if place < len(names) else "") or str(place + 1)
        number = numbers.get(base, 0)
        while name in numbers:
            number += 1
            name = f"{base}_{number}"
        numbers[base] = max(number, 1)
        numbers.setdefault(name, 1)
        fields.append(prefix + name)
    return tuple(fields)
