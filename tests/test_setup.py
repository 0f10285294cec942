"""`make setup`, as far as it goes without installing anything."""

import subprocess
from pathlib import Path
from shutil import copy

from tests.support.harness import DEADLINE

MAKEFILE = Path(__file__).parent.parent / "Makefile"


def test_an_old_python_is_refused_with_how_to_name_another(tmp_path: Path) -> None:
    """Before anything is made."""
    copy(MAKEFILE, tmp_path)
    for lock in ("requirements.txt", "requirements-flow.txt", "requirements-build.txt"):
        (tmp_path / lock).touch()
    old = tmp_path / "python3.9"
    program = "import sys; sys.version_info, sys.version = (3, 9, 2), '3.9.2 (main)'; exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec python3 -c "{program}" "$2"\n')
    old.chmod(0o755)
    command = ["make", "--silent", "setup", f"PYTHON={old}"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert ran.returncode != 0
    said = f"btfeed needs Python 3.11 or later, and {old} is 3.9.2: name another with make PYTHON=python3.12"
    assert said in ran.stderr.splitlines()
    assert not (tmp_path / ".venv").exists()
