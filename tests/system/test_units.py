"""The systemd units in deploy/, as systemd itself reads them."""

import configparser
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from btfeed import inherited
from btfeed.address import BACKLOG
from btfeed.config import load
from tests.support.harness import DEADLINE, Server, until
from tests.support.ports import free_port
from tests.support.posts import sample_visit

DEPLOY = Path(__file__).parents[2] / "deploy"
EXPOSURE = 1.5
"""Of 10. systemd calls up to 2 "OK" and up to 1 "SAFE"; what remains is the network, which btfeed is for."""

UNITS = (
    ("btfeed.service", "btfeed.socket"),
    ("btfeed-receive.service", "btfeed-receive.socket"),
    ("btfeed-deliver@.service",),
)


def read(unit: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None, strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign] # keys as written
    parsed.read(DEPLOY / unit)
    return parsed


@pytest.mark.parametrize("units", UNITS, ids=["one machine", "receive", "deliver"])
def test_systemd_finds_no_fault(tmp_path: Path, systemd: str, units: tuple[str, ...]) -> None:
    """In a service and its socket together. The command is replaced by one that this machine has."""
    for unit in units:
        text = (DEPLOY / unit).read_text().replace("/opt/btfeed/.venv/bin/btfeed", sys.executable)
        (tmp_path / unit.replace("@", "@1")).write_text(
            "\n".join(line for line in text.splitlines() if not line.startswith("Documentation="))
        )
    result = subprocess.run(
        [systemd, "verify", *(tmp_path / unit.replace("@", "@1") for unit in units)],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_systemd_finds_faults(tmp_path: Path, systemd: str) -> None:
    """So the test above can fail."""
    (tmp_path / "btfeed.socket").write_text("[Socket]\nListenStream=4321\nFileDescriptorNam=x\n")
    result = subprocess.run([systemd, "verify", tmp_path / "btfeed.socket"], capture_output=True, text=True, check=False)
    assert "FileDescriptorNam" in result.stderr


@pytest.mark.parametrize("unit", ["btfeed", "btfeed-receive"])
def test_the_socket_is_the_receivers(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the address of the example configuration, and the name and the backlog that btfeed expects."""
    monkeypatch.setenv("BTFEED_PASSWORD", "x")
    socket = read(f"{unit}.socket")["Socket"]
    assert socket["ListenStream"] == load(DEPLOY / "btfeed.toml").receiver.listen
    assert socket["FileDescriptorName"] == inherited.RECEIVER
    assert int(socket["Backlog"]) == BACKLOG


def test_systemd_can_start_it_with_a_socket(tmp_path: Path, systemd: str) -> None:
    """systemd's own tool holds the socket. The first post waits in it until btfeed has started."""
    activate = Path(systemd).with_name("systemd-socket-activate")
    port = free_port()
    prefix = [str(activate), f"--listen=127.0.0.1:{port}", "--fdname=receiver"]
    answers: list[int] = []
    posted = threading.Thread(target=post_when_it_listens, args=(port, answers))
    posted.start()
    with Server(tmp_path, prefix=prefix) as server:
        posted.join(DEADLINE)
        assert answers == [200]
        assert server.port == port
        (line,) = [event for event in server.events() if event["event"] == "using an inherited socket"]
        assert (line["setting"], line["address"]) == ("receiver.listen", f"127.0.0.1:{port}")
        assert len(server.delivered(1)) == 1


def post_when_it_listens(port: int, answers: list[int]) -> None:
    def post() -> int | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", sample_visit(), timeout=DEADLINE) as answer:
                return int(answer.status)
        except urllib.error.URLError:  # the tool does not listen yet
            return None

    answers.append(until(post, "answered"))


@pytest.mark.parametrize("unit", [units[0] for units in UNITS])
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic user", "user of the Debian package"])
def test_the_unit_exposes_little(dynamic: bool, unit: str, systemd: str, tmp_path: Path) -> None:
    """`systemd-analyze security` rates the unit, also as the Debian package changes it."""
    text = (DEPLOY / unit).read_text().replace("/opt/btfeed/.venv/bin/btfeed", "/bin/true")
    path = tmp_path / unit
    path.write_text(text if dynamic else text.replace("DynamicUser=yes\n", ""))
    command = [systemd, "security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", str(path)]
    rated = subprocess.run([*command, "--json=short"], capture_output=True, text=True, check=False)
    assert rated.returncode == 0, rated.stdout + rated.stderr
    assert len(json.loads(rated.stdout)) > 50  # the settings that it looked at
