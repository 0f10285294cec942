"""Help of every command: the same with -h, at 80 columns, and without the types of Python."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from btfeed.commands.main import cli


def every_command() -> Iterator[tuple[str, ...]]:
    """The words of each command and of each group, and none for btfeed itself."""

    def below(words: tuple[str, ...], command: Any) -> Iterator[tuple[str, ...]]:
        yield words
        for name, inner in getattr(command, "commands", {}).items():
            yield from below((*words, name), inner)

    return below((), typer.main.get_command(cli))


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, env={"COLUMNS": "80"}, prog_name="btfeed")
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("words", list(every_command()), ids=lambda words: " ".join(words) or "btfeed")
def test_help_is_short_and_in_the_users_words(words: tuple[str, ...]) -> None:
    """Flags have no type and no opposite, values have a name such as FILE, and no line is too long for a terminal."""
    text = shown(*words, "-h")
    assert text == shown(*words, "--help")
    assert "Usage: " + " ".join(("btfeed", *words)) in text
    for noise in ("<bool>", "<str>", "<path>", "<int>", "<float>", "list[", "--no-", "BOOLEAN", "[]", "None"):
        assert noise not in text
    assert max(map(len, text.splitlines())) <= 80
