"""The systemd units in deploy/, as systemd itself reads them."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from btfeed import inherited
from btfeed.address import BACKLOG
from btfeed.config import load
from tests.support.harness import DEADLINE

DEPLOY = Path(__file__).parents[2] / "deploy"


def read(unit: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None, strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign] # keys as written
    parsed.read(DEPLOY / unit)
    return parsed


def test_systemd_finds_no_fault(tmp_path: Path, systemd: str) -> None:
    """In the service and the socket together. The command is replaced by one that this machine has."""
    for unit in ("btfeed.service", "btfeed.socket"):
        text = (DEPLOY / unit).read_text().replace("/opt/btfeed/.venv/bin/btfeed", sys.executable)
        (tmp_path / unit).write_text("\n".join(line for line in text.splitlines() if not line.startswith("Documentation=")))
    result = subprocess.run(
        [systemd, "verify", tmp_path / "btfeed.service", tmp_path / "btfeed.socket"],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_systemd_finds_faults(tmp_path: Path, systemd: str) -> None:
    """So the test above can fail."""
    (tmp_path / "btfeed.socket").write_text("[Socket]\nListenStream=4321\nFileDescriptorNam=x\n")
    result = subprocess.run([systemd, "verify", tmp_path / "btfeed.socket"], capture_output=True, text=True, check=False)
    assert "FileDescriptorNam" in result.stderr


def test_the_socket_is_the_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the address of the example configuration, and the name and the backlog that btfeed expects."""
    monkeypatch.setenv("BTFEED_PASSWORD", "x")
    socket = read("btfeed.socket")["Socket"]
    assert socket["ListenStream"] == load(DEPLOY / "btfeed.toml").receiver.listen
    assert socket["FileDescriptorName"] == inherited.RECEIVER
    assert int(socket["Backlog"]) == BACKLOG
