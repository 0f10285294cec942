"""The record fields of measures and dimensions, whose names users choose.

Both mappers get their names here. The native one asks once for each distinct business transaction, see plan.rs.
"""

import re
from collections.abc import Sequence
from unicodedata import category, combining
from unicodedata import normalize as _unicode

MOST_MARKS = 30
"""Combining marks in a row in any sensible text, by Unicode's stream-safe format. Putting n of them in order takes n²
steps, in which no other thread runs: 16,000 take a second, and a post may have a thousand times as many."""
_ASCII_WORD = re.compile("[a-z0-9]+")


def normalize(name: str) -> str:
    """The name in Unicode's form NFC and in lower case, with one `_` for each run of characters other than letters, marks
    and digits (general categories L, M and N), and without `_` at the ends.

    A name in this form stays as it is. One with more than 30 combining marks in a row is not composed.
    """
    if name.isascii():
        return "_".join(_ASCII_WORD.findall(name.lower()))  # the same, in a fraction of the time
    lower = name.lower() if has_too_many_marks(name) else _compose(_compose(name).lower())  # lower case may not be NFC
    return "_".join("".join(char if category(char)[0] in "LMN" else " " for char in lower).split())


def _compose(text: str) -> str:
    return _unicode("NFC", text)


def has_too_many_marks(text: str) -> bool:
    """Whether a name is not composed, so that its form depends on how it was sent."""
    return "^" * (MOST_MARKS + 1) in "".join("^" if combining(char) else " " for char in text)


def field_names(prefix: str, names: Sequence[str], count: int) -> tuple[str, ...]:
    """Record fields for `count` values, of which the first have `names`.

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
