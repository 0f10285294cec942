"""Reads TOML files. What is wrong with one is said with its line and the usual cause, without showing its content: that may
be a secret."""

import re
import tomllib
from pathlib import Path
from typing import Any

from btfeed import regular_file
from btfeed.faults import ConfigError

_MESSAGE = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)
_CAUSES = {
    "Expected '=' after a key": "a line is either key = value or [table]",
    "Invalid statement": "a line is either key = value or [table]",
    "Expected ']' at the end of a table": "write a table's name like [name], on a line of its own",
    "Expected ']]' at the end of an array": "write [[name]], on a line of its own",
    "Invalid initial character for a key": "a key consists of letters, digits, _ and -; put any other in quotes",
    "Expected newline or end of document": 'something follows the value; put text and sizes in quotes, as in "64MiB"',
    "Invalid value": 'this is no value; put text in quotes, for example "text", and write true and false in lower case',
    "Illegal character '\\n'": "the text has no closing quote on its line",
    "Illegal character '\\r'": "the text has no closing quote on its line",
    "Unterminated string": "the text has no closing quotes",
    "Unescaped '\\' in a string": r"a backslash in double quotes is special; use single quotes, for example 'C:\data'",
    "Invalid hex value": r"a backslash in double quotes is special; use single quotes, for example 'C:\data'",
    "Escaped character is not": r"a backslash in double quotes is special; use single quotes, for example 'C:\data'",
    "Unclosed array": "the list has no closing ], or a comma between two items is missing",
    "Unclosed inline table": "the inline table has no closing } on its line, or a comma between two keys is missing",
    "Illegal character": "there is a control character; remove it",
    "Found invalid character": "there is a control character; remove it",
    "Invalid date": "this looks like a date, but there is no such day or time; put text in quotes",
    "Cannot mutate immutable namespace": "this table is set above as { ... }; write all of its keys in one place",
    "Cannot redefine namespace": "this table is set above in another way; write all of its keys in one place",
}
"""How a message of tomllib begins -> the usual cause, and what to do."""


def read_toml(path: Path) -> dict[str, Any]:
    """The tables in the file. Raises ConfigError."""
    try:
        content = regular_file.read(path)
    except regular_file.NotRegular:
        raise ConfigError([f"can't read {path}: it is not a regular file, which each reload can read again"]) from None
    except OSError as error:
        raise ConfigError([f"can't read {path}: {error.strerror}"]) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}, line {line}: this is not UTF-8; save the file as UTF-8"]) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_described(path, text, str(error))]) from None


def _described(path: Path, text: str, message: str) -> str:
    found = re.fullmatch(
        r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", message, re.DOTALL
    )
    if not found:
        return f"{path} is not TOML: {message}"
    lines = text.splitlines()
    number = int(found["line"] or len(lines))
    place = f"{path}, line {number}" + (f", column {found['column']}" if found["line"] else "")
    return f"{place}: {_cause(found['what'], lines[number - 1] if number <= len(lines) else '')}"


def _cause(what: str, line: str) -> str:
    """what: the message of tomllib. line: where it was noticed."""
    if what == "Cannot overwrite a value":
        key = re.match(r"\s*([\w.\"' -]+?)\s*=", line)
        return f"{key[1] if key else 'a key'} is set twice; remove one of the two"
    if table := re.fullmatch(r"Cannot declare \((.*)\) twice", what):
        name = ".".join(re.findall(r"'([^']*)'", table[1]))
        return f"the table [{name}] is set above, too; write all of its keys in one place"
    if key := re.fullmatch(r"Duplicate inline table key '(.*)'", what):
        return f"{key[1]} is set twice; remove one of the two"
    return next((cause for begin, cause in _CAUSES.items() if what.startswith(begin)), what)
