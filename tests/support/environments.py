"""Environments with a btfeed of their own, installed from a wheel, which share everything else with this one.

No network is needed, and no compiler: the wheels have no native modules.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGED = ("btfeed", "sinks", "pyproject.toml", "README.md", "LICENSE")
BUILD = ("-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-build-isolation", "--no-deps", "--no-index")
INSTALL = ("--quiet", "--disable-pip-version-check", "install", "--no-deps", "--no-index")


def _sources(target: Path) -> None:
    """Copy what a wheel is built from, as it is now."""
    target.mkdir()
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(ROOT / name, target)


def previous_sources(target: Path) -> str:
    """What a wheel of the previous commit is built from. Returns that commit.

    Without history, as in a shallow clone, or if that version can't be restarted without a gap yet, the sources are those
    of now, and the commit is empty.
    """
    commit = subprocess.run(
        ["git", "rev-parse", "--verify", "HEAD~1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    supervisor = subprocess.run(["git", "cat-file", "-e", "HEAD~1:btfeed/supervisor.py"], cwd=ROOT, check=False)
    if commit.returncode or supervisor.returncode:
        _sources(target)
        return ""
    archive = subprocess.run(["git", "archive", "HEAD~1"], cwd=ROOT, capture_output=True, check=True).stdout
    target.mkdir()
    subprocess.run(["tar", "--extract", "--directory", target], input=archive, check=True)
    return commit.stdout.strip()


def install(source: Path, version: str, environment: Path) -> Path:
    """Build a wheel from `source` with that version number, and install it in a new environment. Returns its `btfeed`."""
    project = source / "pyproject.toml"
    text = re.sub(r'^version = ".*"', f'version = "{version}"', project.read_text(), count=1, flags=re.MULTILINE)
    project.write_text(re.sub(r"^\[\[tool\.setuptools-rust\..*?(?=^\[[^\[])", "", text, flags=re.DOTALL | re.MULTILINE))
    wheels = source / "dist"
    _python(*BUILD, "--wheel-dir", str(wheels), str(source))
    (wheel,) = wheels.glob("btfeed-*.whl")
    assert wheel.name == f"btfeed-{version}-py3-none-any.whl"
    venv.create(environment, symlinks=True)
    ours, theirs = (Path(sysconfig.get_path("purelib", vars={"base": base})) for base in (sys.prefix, str(environment)))
    (theirs / "shared.pth").write_text(f"{ours}\n")  # a .pth file in there is not read, so its btfeed is not found
    _python("-m", "pip", "--python", str(environment / "bin" / "python"), *INSTALL, str(wheel))
    found = _python("-P", "-c", "import btfeed; print(btfeed.__file__)", python=environment / "bin" / "python")
    assert Path(found).is_relative_to(environment), f"{environment} runs {found}"
    return environment / "bin" / "btfeed"


def _python(*arguments: str, python: str | Path = sys.executable) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run([python, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
