"""Numbers, sizes and times in words, as commands and the admin listener show them."""

MAX_NAME = 200
"""Characters of a name or message from elsewhere that are shown."""
CUT = "\N{HORIZONTAL ELLIPSIS}"
"""Stands for what was cut off."""


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun in singular or plural, which ends in s unless it is given."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def size(nbytes: float) -> str:
    """A number of bytes with its unit, such as 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(nbytes) < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


def duration(seconds: float) -> str:
    """A time with its two largest units, such as 3 h 12 min."""
    left = round(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, left = divmod(left, length)
        if number or parts or unit == "s":
            parts.append(f"{number} {unit}")
    return " ".join(part for part in parts[:2] if part[:2] != "0 " or len(parts) == 1)


def cut(text: str, length: int = MAX_NAME) -> str:
    """`text`, or its beginning and CUT, `length` characters together."""
    return text if len(text) <= length else text[: length - 1] + CUT
