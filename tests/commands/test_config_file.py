"""Which configuration a command uses, and that it needs no secrets of tables that it does not read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner, Result

from btfeed.commands import config_file
from btfeed.commands.main import cli
from tests.support.harness import Server

FREE = 'listen = "127.0.0.1:0"\n'
LISTENERS = f"[receiver]\n{FREE}[admin]\n{FREE}"


@pytest.fixture(autouse=True)
def default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the default file would be."""
    monkeypatch.delenv("BTFEED_CONFIG", raising=False)
    monkeypatch.setattr(config_file, "DEFAULT_FILE", tmp_path / "etc" / "btfeed.toml")
    (tmp_path / "etc").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "etc" / "btfeed.toml"


def invoke(*arguments: object, **environment: object) -> Result:
    env = {"COLUMNS": "200"} | {name: str(value) for name, value in environment.items()}
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], env=env)


def first_line(*arguments: object, **environment: object) -> str:
    """Of a check, which says what it checked."""
    return invoke("check", *arguments, **environment).stdout.splitlines()[0]


def test_an_option_comes_before_the_variable_and_the_variable_before_the_default_file(
    tmp_path: Path, default_file: Path
) -> None:
    """And `check` says which one it is, and why."""
    given, named = tmp_path / "given.toml", tmp_path / "named.toml"
    assert first_line() == f"configuration: ok, the built-in defaults (no -c, no $BTFEED_CONFIG, no {default_file})"
    for path in (given, named, default_file):
        path.write_text(LISTENERS)
    assert first_line() == f"configuration: ok, {default_file} (the default file)"
    assert first_line(BTFEED_CONFIG="") == f"configuration: ok, {default_file} (the default file)"
    assert first_line(BTFEED_CONFIG=named) == f"configuration: ok, {named} (from $BTFEED_CONFIG)"
    assert first_line("-c", given, BTFEED_CONFIG=named) == f"configuration: ok, {given}"


@pytest.mark.parametrize(
    "command", ["serve", "check", "status", "dead-letters list", "dead-letters export", "dead-letters retry"]
)
def test_a_variable_that_names_no_file_is_an_error(command: str, tmp_path: Path) -> None:
    """For every command: another configuration than the one that was meant would be worse."""
    result = invoke(*command.split(), BTFEED_CONFIG=tmp_path / "none.toml")
    path = f"{tmp_path}/none.toml"
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (f"1 error in {path} (from $BTFEED_CONFIG):\ncan't read {path}: No such file or directory\n")


def test_a_default_file_that_can_not_be_read_is_an_error(default_file: Path) -> None:
    """And not the built-in defaults: here, a link that leads nowhere."""
    default_file.symlink_to("nowhere")
    result = invoke("check")
    assert result.exit_code == 2
    assert f"can't read {default_file}: No such file or directory" in result.stderr


def test_without_any_file_a_check_is_of_the_built_in_defaults(tmp_path: Path) -> None:
    """In the current directory, which it does not change. Whether the ports are free depends on this machine."""
    found = invoke("check").stdout.splitlines()
    assert [line for line in found[1:] if ".listen" not in line] == [
        "journal.directory: ok, btfeed-data can be written",
        "sinks.files: ok, a file sink that could open",
    ]
    assert {line.partition(":")[0] for line in found if ".listen" in line} == {"receiver.listen", "admin.listen"}
    assert list((tmp_path / "elsewhere").iterdir()) == []


@contextmanager
def denied(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def lstat(_: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "lstat", lstat)
        yield


def test_a_default_file_in_a_closed_directory_is_an_error(default_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be there: whoever runs the command has to hear of it."""
    with denied(default_file, monkeypatch):
        result = invoke("status")
    assert result.exit_code == 2
    assert f"can't read {default_file}" in result.stderr


def test_every_command_with_a_configuration_file_says_where_it_comes_from() -> None:
    """In its help: they share one option. Replay and flows need none for what they do mostly."""

    def options(group: object, path: str = "") -> Iterator[tuple[str, str]]:
        for name, command in getattr(group, "commands", {}).items():
            yield from ((f"{path}{name}", each.help) for each in command.params if "--config" in each.opts)
            yield from options(command, f"{path}{name} ")

    helps = dict(options(typer.main.get_command(cli)))
    mostly_without = {name for name in helps if name == "replay" or name.startswith("flow ")}
    (text,) = {text for name, text in helps.items() if name not in mostly_without}
    assert "$BTFEED_CONFIG, else /etc/btfeed/btfeed.toml, else built-in defaults" in text
    assert all("onfiguration" in helps[name] for name in mostly_without)


def without_secrets(server: Server, path: Path) -> Path:
    """The configuration of the server, and below it sinks with secrets that are not there."""
    more = '[sinks.dt]\ntype = "bizevents"\nurl = "https://x.live.dynatrace.com"\napi_token = "${NO_TOKEN}"\n'
    more += '[sinks.es]\ntype = "elasticsearch"\nhosts = ["${file:no-file}"]\n[record.privacy]\nkey = "${NO_KEY}"\n'
    admin = f'[admin]\nlisten = "{server.admin_url.removeprefix("http://")}"\n'
    text = server.config.read_text().replace('[admin]\nlisten = "127.0.0.1:0"\n', admin)
    path.write_text(text + more)
    return path


def test_status_and_dead_letters_need_no_secrets_and_work_from_any_directory(server: Server, tmp_path: Path) -> None:
    """At three in the morning, the operator's shell has none of the service's variables."""
    config = without_secrets(server, server.directory / "all.toml")
    status = invoke("status", "-c", config)
    assert (status.exit_code, status.stderr) == (0, "")
    for command in ("list", "export", "retry"):
        result = invoke("dead-letters", command, "-c", config, "--sink", "dt")
        assert (result.exit_code, result.stderr) == (0, ""), command
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_check_reports_what_is_missing_and_goes_on(tmp_path: Path) -> None:
    """Each missing secret is a failure where it is used. The other tables and sinks are checked."""
    path = tmp_path / "btfeed.toml"
    path.write_text(
        f'[receiver]\n{FREE}bearer_tokens = ["${{NO_TOKEN}}"]\n[admin]\n{FREE}[sinks.a]\ntype = "file"\n'
        '[sinks.dt]\ntype = "bizevents"\nurl = "https://x.live.dynatrace.com"\napi_token = "${credential:dt}"\n'
    )
    result = invoke("check", "-c", path)
    assert result.exit_code == 1
    how = "add LoadCredential=dt:FILE to the unit"
    assert result.stdout.splitlines() == [
        f"configuration: incomplete, {path}",
        "receiver.bearer_tokens.0: failed, environment variable NO_TOKEN is not set",
        f"sinks.dt.api_token: failed, systemd has passed no credentials, or did not start this process: {how}",
        f"journal.directory: ok, {tmp_path}/btfeed-data can be written",
        "receiver.listen: ok, 127.0.0.1:0 is free",
        "admin.listen: ok, 127.0.0.1:0 is free",
        "sinks.a: ok, a file sink that could open",
    ]
