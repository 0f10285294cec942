"""Output that can't be written: no command pretends that it was, and none shows a traceback."""

import subprocess
from pathlib import Path

import pytest

from tests.commands.test_main import EXAMPLES
from tests.support.harness import BTFEED, DEADLINE

COMMANDS = pytest.mark.parametrize(
    "arguments", [["inspect", str(EXAMPLES)], ["generate", "web-shop", "--show"], ["--help"]], ids=lambda words: words[0]
)


def run(arguments: list[str], redirection: str) -> "subprocess.CompletedProcess[str]":
    """The command with its output redirected by a shell, whose exit status is that of btfeed."""
    command = ["bash", "-c", f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}', "bash", *BTFEED, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)


@pytest.mark.slow
@COMMANDS
@pytest.mark.parametrize(
    ("redirection", "reason"), [("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
def test_output_that_can_not_be_written_is_a_failure(arguments: list[str], redirection: str, reason: str) -> None:
    """Exit status 1, and one line on stderr: a full disk, and standard output that was closed."""
    result = run(arguments, redirection)
    assert (result.returncode, result.stderr) == (1, f"standard output: {reason}\n")


@pytest.mark.slow
@COMMANDS
def test_a_reader_that_has_gone_ends_the_command_quietly(arguments: list[str]) -> None:
    """With the exit status of a program that SIGPIPE ended, as `cat` has it."""
    result = run(arguments, "| true")
    assert (result.returncode, result.stderr) == (141, "")


def test_posts_are_not_written_to_a_closed_standard_output(tmp_path: Path) -> None:
    """It is found before anything is sent or written, so no file takes its place."""
    result = run(["replay", str(EXAMPLES), "--out", "-"], ">&-")
    assert (result.returncode, result.stderr) == (1, "-: standard output is closed\n")
