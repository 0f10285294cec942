"""`btfeed receive` and `btfeed deliver`: what they refuse, before anything starts."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.commands.test_admin_client import answering
from tests.support.harness import BTFEED, DEADLINE

pytestmark = pytest.mark.slow

KAFKA = '[journal]\ntype = "kafka"\nbootstrap_servers = "127.0.0.1:1"\nrequest_timeout = "200ms"\n'


def run(directory: Path, text: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = directory / "btfeed.toml"
    path.write_text(text)
    command = [*BTFEED, *arguments, "-c", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False, cwd=directory)


@pytest.mark.parametrize("command", ["receive", "deliver"])
def test_a_journal_in_sqlite_is_for_serve(command: str, tmp_path: Path) -> None:
    """Exit status 2, with the reason and what to do, and nothing is made."""
    done = run(tmp_path, '[sinks.a]\ntype = "file"\n', command)
    assert done.returncode == 2
    assert 'journal.type: a journal of type "sqlite" belongs to one process' in done.stderr
    assert f'set journal.type = "kafka" for `btfeed {command}`' in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["btfeed.toml"]


def test_a_sink_that_is_not_configured_is_refused(tmp_path: Path) -> None:
    """With the names of those that are."""
    done = run(tmp_path, f'{KAFKA}[sinks.a]\ntype = "file"\n', "deliver", "--sink", "b")
    assert done.returncode == 2
    assert "sinks.b: no such sink; the sinks are a" in done.stderr


def test_leaving_says_why_it_could_not(tmp_path: Path) -> None:
    """Exit status 1 if no broker replies."""
    done = run(tmp_path, f'{KAFKA}[sinks.a]\ntype = "file"\n', "deliver", "--leave")
    assert done.returncode == 1
    assert done.stderr.startswith("can't leave: ")
    assert "127.0.0.1:1" in done.stderr


@pytest.mark.parametrize(
    ("role", "instance", "refused"), [("deliver", "one", True), ("receive", "one", False), ("deliver", "two", False)]
)
def test_only_an_instance_that_has_ended_leaves(role: str, instance: str, refused: bool, tmp_path: Path) -> None:
    """One that runs would lose its partitions for a moment: its admin listener says that it does."""
    shown = {"role": role, "instance": instance, "prefix": "btfeed", "sinks": {}}
    with answering(200, json.dumps(shown).encode()) as listener:
        admin = f'instance = "one"\n[admin]\nlisten = "{listener.url[7:]}"\n'
        done = run(tmp_path, f'{KAFKA}{admin}[sinks.a]\ntype = "file"\n', "deliver", "--leave")
    assert done.returncode == 1
    assert (f"instance one is running, and answers at {listener.url[7:]} (admin.listen). Stop it" in done.stderr) is refused
    assert ("127.0.0.1:1:" in done.stderr) is not refused  # it asked the brokers


def test_a_check_is_for_a_command(tmp_path: Path) -> None:
    """What only the others need is not looked at: a receiver has no secrets of sinks."""
    secret = '[sinks.a]\ntype = "kafka"\nbootstrap_servers = "k:1"\nsecurity = { password = "${MISSING}" }\n'
    free = '[receiver]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n'
    done = run(tmp_path, free + KAFKA + secret, "check", "--for", "receive")
    checked = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert "receiver.listen" in checked
    assert not any(path.startswith("sinks") for path in checked)
    done = run(tmp_path, f'{free}{KAFKA}[sinks.a]\ntype = "file"\n', "check", "--for", "deliver")
    checked = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert "sinks.a" in checked
    assert "receiver.listen" not in checked
    assert done.returncode == 1  # no broker replies
    done = run(tmp_path, '[sinks.a]\ntype = "file"\n', "check", "--for", "deliver")
    assert (done.returncode, "belongs to one process" in done.stderr) == (2, True)
    done = run(tmp_path, "", "check", "--for", "delivery")
    assert done.returncode == 2
    assert "no such command 'delivery'" in done.stderr
