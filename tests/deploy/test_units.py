"""The systemd unit: what an attacker who has btfeed could reach, by systemd's own measure."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "deploy" / "btfeed.service"
EXPOSURE = 1.5
"""Of 10. systemd calls up to 2 "OK" and up to 1 "SAFE"; what remains is the network, which btfeed is for."""


@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic user", "user of the Debian package"])
def test_the_unit_exposes_little(dynamic: bool, tmp_path: Path) -> None:
    """`systemd-analyze security` rates the unit, also as the Debian package changes it."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed: it is part of systemd")
    text = UNIT.read_text().replace("/opt/btfeed/.venv/bin/btfeed", "/bin/true")
    unit = tmp_path / "btfeed.service"
    unit.write_text(text if dynamic else text.replace("DynamicUser=yes\n", ""))
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", str(unit)]
    rated = subprocess.run([*command, "--json=short"], capture_output=True, text=True, check=False)
    assert rated.returncode == 0, rated.stdout + rated.stderr
    assert len(json.loads(rated.stdout)) > 50  # the settings that it looked at
