"""Text from elsewhere that a terminal, or the page amid its own words, can show as it is."""

import re
from collections.abc import Iterable

_HARMFUL = [*range(9), *range(11, 32), *range(127, 160), *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
_HARMFUL += [0x061C, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF]
"""Control characters but tab and newline, line separators, what turns the direction of writing, and what nobody sees."""
_ESCAPES = {code: f"\\u{code:04x}" for code in _HARMFUL}


def printable(text: str) -> str:
    """`text` with control characters as escapes of JSON: a far end's answer must not control the terminal that shows it."""
    return text.translate(_ESCAPES)


def lines(texts: Iterable[str]) -> str:
    """Each text in a line of its own: a newline within one is an escape, too."""
    return "\n".join(printable(text).replace("\n", "\\u000a") for text in texts)


def meant(text: str) -> str:
    """The text that `lines` shows so: what was copied from a terminal, without the escapes."""
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: _unescaped(found[0], int(found[1], 16)), text)


def _unescaped(escape: str, code: int) -> str:
    return chr(code) if code in _ESCAPES or code == ord("\n") else escape
