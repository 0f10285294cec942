"""Reads DQL as far as needed to tell which fields a query names: it splits it into words, and knows some of DQL's own."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

COMMANDS = {
    "fetch",
    "filter",
    "dedup",
    "summarize",
    "fields",
    "fieldsAdd",
    "fieldsRemove",
    "sort",
    "limit",
    "makeTimeseries",
}
FUNCTIONS = {
    *("count", "countIf", "sum", "avg", "min", "max", "median", "percentile"),
    *("if", "in", "array", "isNull", "isNotNull", "now"),
}
PARAMETERS = {"by", "from", "to", "interval", "else"}
WORDS = {"and", "or", "not", "true", "false", "asc", "desc", "bizevents"}
_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<text>"(?:[^"\\]|\\.)*")
    | (?P<quoted>`[^`]+`)
    | (?P<variable>\$\w+)
    | (?P<number>\d+(?:\.\d+)?(?:[smhd]\b)?)
    | (?P<name>[A-Za-z_]\w*(?:\.\w+)*)
    | (?P<sign>==|!=|<=|>=|[-+*/=<>(){}\[\],:|])
    """,
    re.VERBOSE,
)
_PAIRS = {")": "(", "}": "{", "]": "["}


@dataclass(frozen=True)
class Token:
    kind: str
    text: str


def tokens(query: str) -> Iterator[Token]:
    """The query's words and signs. Raises ValueError for what is neither, and for brackets that don't match."""
    at, open_brackets = 0, ""
    while at < len(query):
        match = _TOKEN.match(query, at)
        if not match or not match.lastgroup:
            raise ValueError(f"not DQL: {query[at : at + 20]!r}")
        at, text = match.end(), match.group()
        if text in _PAIRS.values():
            open_brackets += text
        elif text in _PAIRS:
            if not open_brackets.endswith(_PAIRS[text]):
                raise ValueError(f"{text} closes nothing: {query[:at]!r}")
            open_brackets = open_brackets[:-1]
        if match.lastgroup != "space":
            yield Token(match.lastgroup, text)
    if open_brackets:
        raise ValueError(f"{open_brackets} stays open: {query!r}")


def fields(query: str) -> set[str]:
    """The fields of events that a query names: not the columns that it defines itself, once it has defined them.

    Raises ValueError for a command, function or parameter that isn't known here.
    """
    words = list(tokens(query))
    following = [*words[1:], Token("sign", "|")]
    named: set[str] = set()
    defined: set[str] = set()
    fresh: set[str] = set()
    for before, word, after in zip([Token("sign", "|"), *words], words, following, strict=False):
        if before.text == "|":
            defined |= fresh  # a column is there from the next command on
            fresh = set()
            _known(word, COMMANDS)
        elif word.kind not in ("name", "quoted") or word.text in WORDS:
            continue
        elif after.text == "(":
            _known(word, FUNCTIONS)
        elif after.text == ":":
            _known(word, PARAMETERS)
        elif after.text == "=":
            fresh.add(word.text)
        elif word.text not in defined:
            named.add(word.text.strip("`"))
    return named


def _known(word: Token, known: set[str]) -> None:
    if word.text not in known:
        raise ValueError(f"{word.text} is none of {sorted(known)}")
