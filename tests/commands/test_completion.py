"""What the shells complete. They ask the command itself, each in its own way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from btfeed.commands.main import cli
from tests.support.harness import DEADLINE

SHELLS = ["bash", "zsh", "fish"]


def completed(shell: str, line: str, **environment: str) -> str:
    """What `btfeed` answers when the shell completes `line`, whose last word is unfinished."""
    asked = {
        "_BTFEED_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    result = CliRunner().invoke(cli, [], env=asked | environment, prog_name="btfeed")
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_are_completed(shell: str) -> None:
    """And those of a group."""
    assert "status" in completed(shell, "btfeed sta")
    assert "capture" not in completed(shell, "btfeed sta")
    assert "retry" in completed(shell, "btfeed dead-letters re")


@pytest.mark.parametrize("shell", SHELLS)
def test_options_and_their_values_are_completed(shell: str) -> None:
    """Where there are few: levels and formats of logs, built-in profiles, posts or occurrences, types of sinks."""
    assert "--watch" in completed(shell, "btfeed status --w")
    assert "WARNING" in completed(shell, "btfeed serve --log-level W")
    assert "json" in completed(shell, "btfeed check --log-format j")
    assert "web-shop" in completed(shell, "btfeed generate w")
    assert "occurrences" in completed(shell, "btfeed replay --unit o")
    assert "kafka" in completed(shell, "btfeed init file k")


@pytest.mark.parametrize("shell", SHELLS)
def test_names_of_sinks_are_completed_from_the_configuration(shell: str, tmp_path: Path) -> None:
    """The one of --config, or else the default one. Secrets that are not set do not matter."""
    config = tmp_path / "btfeed.toml"
    config.write_text('[sinks.archive]\ntype = "file"\n[sinks.search]\ntype = "elasticsearch"\nhosts = ["${NOT_SET}"]\n')
    assert "archive" in completed(shell, f"btfeed dead-letters list -c {config} --sink a")
    for command in ("dead-letters list --sink", "sinks pause", "records --sink", "tap --sink"):
        assert "search" in completed(shell, f"btfeed {command} s", BTFEED_CONFIG=str(config))


@pytest.mark.parametrize("content", ["no TOML", 'sinks = "wrong"', ""])
def test_a_configuration_that_can_not_be_read_completes_nothing(content: str, tmp_path: Path) -> None:
    """And prints nothing: a message would end up in the line that the user types."""
    config = tmp_path / "btfeed.toml"
    config.write_text(content)
    assert completed("bash", f"btfeed dead-letters list -c {config} --sink a").strip() == ""
    assert completed("bash", f"btfeed dead-letters list -c {tmp_path / 'gone'} --sink a").strip() == ""


@pytest.mark.slow
def test_bash_completes_with_the_script_that_btfeed_prints(tmp_path: Path) -> None:
    """The real shell, and the installed command."""
    scripts = Path(sys.executable).parent
    program = """
        source <(_BTFEED_COMPLETE=source_bash btfeed)
        COMP_WORDS=(btfeed dead-letters ex) COMP_CWORD=2
        _btfeed_completion btfeed
        echo "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}"}
    command = ["bash", "--norc", "-c", program]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert (ran.stdout, ran.stderr) == ("export\n", "")
