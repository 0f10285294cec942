"""Messages for files that are not TOML: the line, the usual cause, and what to do."""

import inspect
import os
import re
from pathlib import Path
from tomllib import _parser  # type: ignore[attr-defined]

import pytest

from btfeed.faults import ConfigError
from btfeed.toml_file import _CAUSES, read_toml

OUT_OF_QUOTES = 'something follows the value; put text and sizes in quotes, as in "64MiB"'
NO_VALUE = 'this is no value; put text in quotes, for example "text", and write true and false in lower case'
NOT_CLOSED = "the inline table has no closing } on its line, or a comma between two keys is missing"
NO_DATE = "this looks like a date, but there is no such day or time; put text in quotes"
SET_ABOVE = "is set above, too; write all of its keys in one place"
BACKSLASH = r"a backslash in double quotes is special; use single quotes, for example 'C:\data'"


def fault(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        read_toml(path)
    (found,) = raised.value.faults
    return found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[receiver]\nlisten "127.0.0.1:1"\n', "line 2, column 8: a line is either key = value or [table]"),
        ("[admin]\nlisten = localhost:1\n", f"line 2, column 10: {NO_VALUE}"),
        ("a = True\n", f"line 1, column 5: {NO_VALUE}"),
        ("[journal]\nmax_size = 64MiB\n", f"line 2, column 14: {OUT_OF_QUOTES}"),
        ("[admin]\nlisten = 127.0.0.1:4321\n", f"line 2, column 15: {OUT_OF_QUOTES}"),
        ('a = "x\nb = 1\n', "line 1, column 7: the text has no closing quote on its line"),
        ('a = "x', "line 1: the text has no closing quotes"),
        (r'a = "C:\temp\new\data"' + "\n", f"line 1, column 19: {BACKSLASH}"),
        (r'a = "C:\Users"', f"line 1, column 10: {BACKSLASH}"),
        (r'a = "\ud800"', f"line 1, column 12: {BACKSLASH}"),
        ("a = [1, 2\nb = 1\n", "line 2, column 1: the list has no closing ], or a comma between two items is missing"),
        (
            "a = { b = 1\n",
            "line 1, column 12: the inline table has no closing } on its line, or a comma between two keys is missing",
        ),
        ("[a\n", "line 1, column 3: write a table's name like [name], on a line of its own"),
        ("[[a]\n", "line 1, column 4: write [[name]], on a line of its own"),
        ("[sinks.]\n", "line 1, column 8: a key consists of letters, digits, _ and -; put any other in quotes"),
        ("a.b c = 1\n", "line 1, column 5: a line is either key = value or [table]"),
        ("%\n", "line 1, column 1: a line is either key = value or [table]"),
        ("a = 1 # \x01\n", "line 1, column 9: there is a control character; remove it"),
        (
            "a = 2026-02-30\n",
            "line 1, column 5: this looks like a date, but there is no such day or time; put text in quotes",
        ),
        ("[a]\nlisten = 1\n\nlisten = 2\n", "line 4, column 11: listen is set twice; remove one of the two"),
        ('"a b" = 1\n"a b" = 2\n', 'line 2, column 10: "a b" is set twice; remove one of the two'),
        ("a = { b = 1, b = 2 }\n", "line 1, column 19: b is set twice; remove one of the two"),
        (
            "[a.b]\nx = 1\n[c]\n[a.b]\n",
            f"line 4, column 5: the table [a.b] {SET_ABOVE}",
        ),
        (
            "a = { b = 1 }\n[a.c]\n",
            f"line 2, column 5: the table [a.c] {SET_ABOVE}",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line_and_the_usual_cause(text: str, message: str, tmp_path: Path) -> None:
    """Not in the parser's words. A key is named, a value never: it may be a secret."""
    path = tmp_path / "btfeed.toml"
    path.write_text(text)
    assert fault(path) == f"{path}, {message}"


def test_every_message_of_the_parser_has_a_cause() -> None:
    """Of the interpreter that runs the test."""
    source = inspect.getsource(_parser)
    messages = [
        match[1].replace("\\\\", "\\")
        for match in re.finditer(r'suffixed_err\(\s*src,\s*\w+,\s*f?"(.*?)"\s*,?\s*\)', source)
    ]
    assert len(messages) == source.count("suffixed_err(") - 1
    elsewhere = (
        "Cannot overwrite a value",
        "Cannot declare {key} twice",
        "Duplicate inline table key",
        "Expected {expect!r}",
    )
    without = [message for message in messages if not message.startswith((*_CAUSES, *elsewhere))]
    assert without == []


def test_a_file_that_is_not_utf_8_is_told_with_its_line(tmp_path: Path) -> None:
    """An editor may have saved it in another encoding."""
    path = tmp_path / "btfeed.toml"
    path.write_bytes(b"a = 1\n# caf\xe9\n")
    assert fault(path) == f"{path}, line 2: this is not UTF-8; save the file as UTF-8"


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """A named pipe that nobody writes to would block for ever."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        assert fault(path) == f"can't read {path}: it is not a regular file, which each reload can read again"
