"""The command `btfeed init`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from btfeed.commands.main import cli


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BTFEED_CONFIG", raising=False)
    return tmp_path


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, arguments, env={"COLUMNS": "200"} | environment)


def test_it_writes_a_configuration_and_says_what_to_do_next(directory: Path) -> None:
    """Which variables to set, and how to check it. Types are taken once each."""
    result = invoke("init", "kafka", "elasticsearch", "kafka")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "wrote btfeed.toml",
        "replace the example in sinks.kafka.bootstrap_servers, sinks.elasticsearch.hosts",
        "set in the environment: ELASTIC_API_KEY",
        "then run: btfeed check -c btfeed.toml",
    ]
    shown = invoke("check", "-c", "btfeed.toml", ELASTIC_API_KEY="x").stdout.splitlines()
    assert shown[0] == "configuration: ok, btfeed.toml"
    assert {line.partition(":")[0] for line in shown if line.startswith("sinks.")} == {"sinks.kafka", "sinks.elasticsearch"}


def test_the_default_is_a_file_sink(directory: Path) -> None:
    """In the file that --output names."""
    assert invoke("init", "-o", "other.toml").stdout.splitlines() == [
        "wrote other.toml", "check it: btfeed check -c other.toml",
    ]  # fmt: skip
    assert '[sinks.file]\ntype = "file"\n' in (directory / "other.toml").read_text()


def test_it_can_be_printed(directory: Path) -> None:
    """It is then all that is on standard output."""
    printed = invoke("init", "file", "--output", "-").stdout
    invoke("init", "file")
    assert (directory / "btfeed.toml").read_text() == printed


def test_it_overwrites_nothing(directory: Path) -> None:
    """A configuration may be in use."""
    (directory / "btfeed.toml").write_text("mine")
    result = invoke("init")
    assert result.exit_code == 1
    assert result.stderr == (
        "btfeed.toml exists, and is left as it is: choose another place with --output, or remove it first\n"
    )
    assert (directory / "btfeed.toml").read_text() == "mine"


def test_a_place_that_can_not_be_written_is_named() -> None:
    """With the reason."""
    result = invoke("init", "-o", "no/folder.toml")
    assert (result.exit_code, result.stderr) == (1, "can't write no/folder.toml: No such file or directory\n")


def test_an_unknown_type_is_an_error_with_the_one_that_is_meant(directory: Path) -> None:
    """Nothing is written."""
    result = invoke("init", "kafka", "elasticserch")
    assert result.exit_code == 2
    assert 'unknown sink type "elasticserch"; did you mean "elasticsearch"?' in result.stderr
    assert list(directory.iterdir()) == []


SOURCES = {path.name: path for path in (Path(__file__).parents[2] / "deploy").glob("btfeed.*")}
"""The units and their example configuration, as they are kept."""


def test_systemd_units_are_those_of_deploy_with_the_path_of_the_command(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file of deploy/, in the directory that --output names. The page that a wheel doesn't have is left out."""
    monkeypatch.setattr("sys.argv", [str(directory / "current/bin/btfeed")])
    (directory / "units").mkdir()
    result = invoke("init", "--systemd", "-o", "units")
    assert (result.exit_code, result.stderr) == (0, "")
    assert {path.name for path in (directory / "units").iterdir()} == SOURCES.keys() >= {"btfeed.service", "btfeed.toml"}
    for name, source in SOURCES.items():
        lines = [line for line in source.read_text().splitlines() if not line.startswith("Documentation=")]
        expected = [line.replace("/opt/btfeed/.venv/", f"{directory}/current/") for line in lines]
        assert (directory / "units" / name).read_text().splitlines() == expected
    assert f"ExecStart={directory}/current/bin/btfeed serve" in (directory / "units/btfeed.service").read_text()


def test_systemd_units_overwrite_nothing(directory: Path) -> None:
    """If one of the files exists, none is written."""
    (directory / "btfeed.toml").write_text("mine")
    result = invoke("init", "--systemd")
    assert result.exit_code == 1
    assert result.stderr.startswith("btfeed.toml exists, and is left as it is")
    assert [path.name for path in directory.iterdir()] == ["btfeed.toml"]
