"""The commands `btfeed config show` and `btfeed config schema`."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from btfeed.commands.main import cli
from btfeed.config.schema import schema


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], env={"COLUMNS": "200", "BTFEED_CONFIG": None})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "btfeed.toml"
    path.write_text('[receiver]\nbearer_tokens = ["${NO_TOKEN}", "SECRET"]\n[sinks.a]\ntype = "file"\n')
    return path


def test_the_effective_configuration_is_shown_without_its_secrets(file: Path) -> None:
    """As TOML, which says what it is of and which secrets are missing, or as JSON with the same content."""
    result = invoke("config", "show", "-c", file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:6] == [
        f"# {file}",
        "# receiver.bearer_tokens.0: environment variable NO_TOKEN is not set",
        "",
        "[receiver]",
        'listen = "127.0.0.1:4321"',
        'path = "/"',
    ]
    assert "SECRET" not in result.stdout
    tables = tomllib.loads(result.stdout)
    assert tables["receiver"]["bearer_tokens"] == ["${NO_TOKEN}", "***"]
    assert tables["sinks"]["a"]["directory"] == f"{file.parent}/btfeed-data/files"
    assert json.loads(invoke("config", "show", "--json", "-c", file).stdout) == tables


def test_what_can_not_be_shown_without_a_variable_is_exit_2(file: Path) -> None:
    """A secret need not be there, an address must."""
    file.write_text(file.read_text() + '[admin]\nlisten = "${NO_LISTEN}"\n')
    result = invoke("config", "show", "-c", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"1 error in {file}:",
        "admin.listen: environment variable NO_LISTEN is not set",
    ]


def test_errors_are_shown_without_missing_secrets(file: Path) -> None:
    """These need not be there. A reference with a mistake in it is one in the file."""
    file.write_text(file.read_text() + '[admin]\ntoken = "${}"\n')
    result = invoke("config", "show", "-c", file)
    assert (result.exit_code, result.stdout) == (2, "")
    first, second = result.stderr.splitlines()
    assert first == f"1 error in {file}:"
    assert second.startswith("admin.token: unknown form of ${...}")
    assert "NO_TOKEN" in invoke("check", "-c", file).stderr


def test_the_schema_is_printed() -> None:
    """With the types of sinks that are installed."""
    result = invoke("config", "schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == schema()
