"""The names that a record gives to measures and dimensions."""

import re
from collections.abc import Iterator, Sequence


def normalise(name: str) -> str:
    """Lower case, each run of other characters than a-z0-9 made one `_`, none at the ends."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def field_names(prefix: str, names: Sequence[str], count: int) -> tuple[str, ...]:
    """Record fields for `count` values of which the first have `names`.

    An empty name, and a place past the end of the names, becomes its 1-based place. A second equal name gets `_2`, a
    third `_3`, or the next number that no name before it has.
    """
    padded = (names[place] if place < len(names) else "" for place in range(count))
    return tuple(prefix + name for name in _distinct(padded))


def _distinct(names: Iterator[str]) -> Iterator[str]:
    numbers: dict[str, int] = {}
    for place, raw in enumerate(names, start=1):
        base = name = normalise(raw) or str(place)
        number = numbers.get(base, 0)
        while name in numbers:
            number += 1
            name = f"{base}_{number}"
        numbers[base] = max(number, 1)
        numbers.setdefault(name, 1)
        yield name
